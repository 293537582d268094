import { parse } from "smol-toml";
import {
  AutoscalingConfig,
  CacheConfig,
  checkRunnerTable,
  DockerConfig,
  DockerService,
  GcsCacheConfig,
  GlobalConfig,
  globalTable,
  MachineConfig,
  mergeTables,
  renderConfigToml,
  RunnerConfig,
  runnerTable,
  S3CacheConfig,
  TomlTable,
} from "../constructs/runner-config";
import { resolved, variable } from "./synthesized";

/** The runner entry as GitLab Runner reads it. */
const written = (runner: RunnerConfig) =>
  (parse(renderConfigToml({}, [runnerTable(runner)])) as unknown as { runners: [TomlTable] }).runners[0];

// GitLab's names, from https://docs.gitlab.com/runner/configuration/advanced-configuration/. `Required` makes the compiler
// ask for a line here for each new property.
describe("every typed key has GitLab's own name", () => {
  test("the global section", () => {
    const config: Required<GlobalConfig> = {
      concurrent: 1,
      checkInterval: 2,
      logLevel: "warn",
      logFormat: "json",
      listenAddress: "localhost:9252",
      shutdownTimeout: 3,
      connectionMaxAge: "15m",
      sentryDsn: "https://sentry.example",
    };
    expect(parse(renderConfigToml(globalTable(config), []))).toEqual({
      concurrent: 1,
      check_interval: 2,
      log_level: "warn",
      log_format: "json",
      listen_address: "localhost:9252",
      shutdown_timeout: 3,
      connection_max_age: "15m",
      sentry_dsn: "https://sentry.example",
      runners: [],
    });
  });

  test("[[runners]]", () => {
    const config: Required<Omit<RunnerConfig, "docker" | "machine" | "cache">> = {
      name: "name",
      url: "url",
      token: "token",
      tlsCaFile: "tls",
      executor: "docker",
      limit: 1,
      outputLimit: 2,
      requestConcurrency: 3,
      strictCheckInterval: true,
      unhealthyRequestsLimit: 4,
      unhealthyInterval: "60m",
      jobStatusFinalUpdateRetryLimit: 5,
      buildsDir: "builds",
      cacheDir: "cache",
      cloneUrl: "clone",
      environment: ["A=b"],
      preGetSourcesScript: "a",
      postGetSourcesScript: "b",
      preBuildScript: "c",
      postBuildScript: "d",
      prepareTimeout: "1m",
      getSourcesTimeout: "2m",
      debugTraceDisabled: true,
      safeDirectoryCheckout: false,
      cleanGitConfig: true,
      shell: "bash",
      featureFlags: { FF_NETWORK_PER_BUILD: true, ff_lowerCase: false },
    };
    expect(written(config)).toEqual({
      name: "name",
      url: "url",
      token: "token",
      "tls-ca-file": "tls",
      executor: "docker",
      limit: 1,
      output_limit: 2,
      request_concurrency: 3,
      strict_check_interval: true,
      unhealthy_requests_limit: 4,
      unhealthy_interval: "60m",
      job_status_final_update_retry_limit: 5,
      builds_dir: "builds",
      cache_dir: "cache",
      clone_url: "clone",
      environment: ["A=b"],
      pre_get_sources_script: "a",
      post_get_sources_script: "b",
      pre_build_script: "c",
      post_build_script: "d",
      prepare_timeout: "1m",
      get_sources_timeout: "2m",
      debug_trace_disabled: true,
      safe_directory_checkout: false,
      clean_git_config: true,
      shell: "bash",
      feature_flags: { FF_NETWORK_PER_BUILD: true, ff_lowerCase: false },
    });
  });

  test("[runners.docker]", () => {
    const service: Required<DockerService> = {
      name: "docker:dind",
      alias: "docker",
      entrypoint: ["a"],
      command: ["b"],
      environment: ["C=d"],
    };
    const docker: Required<DockerConfig> = {
      image: "alpine",
      tlsVerify: false,
      privileged: true,
      servicesPrivileged: false,
      pullPolicy: ["always", "if-not-present"],
      allowedPullPolicies: ["never"],
      allowedImages: ["a"],
      allowedServices: ["b"],
      allowedPrivilegedImages: ["c"],
      allowedPrivilegedServices: ["d"],
      allowedUsers: ["e"],
      helperImage: "helper",
      helperImageFlavor: "ubuntu",
      user: "1000",
      groupAdd: ["f"],
      capAdd: ["NET_ADMIN"],
      capDrop: ["ALL"],
      securityOpt: ["g"],
      servicesSecurityOpt: ["h"],
      usernsMode: "host",
      runtime: "runsc",
      disableEntrypointOverwrite: true,
      memory: "1g",
      memorySwap: "2g",
      memoryReservation: "3g",
      cpus: "1.5",
      cpusetCpus: "0,1",
      cpusetMems: "0",
      cpuShares: 512,
      shmSize: 300000,
      ulimit: { nofile: "1024:2048" },
      oomKillDisable: true,
      oomScoreAdjust: -1,
      gpus: "all",
      sysctls: { "net.ipv4.ip_forward": "1", camelCase: "x" },
      serviceMemory: "4g",
      serviceMemorySwap: "5g",
      serviceMemoryReservation: "6g",
      serviceCpus: "2",
      serviceCpuShares: 256,
      serviceCpusetCpus: "2,3",
      serviceGpus: "none",
      networkMode: "host",
      dns: ["10.0.0.1"],
      dnsSearch: ["example"],
      extraHosts: ["a:10.0.0.2"],
      links: ["b:c"],
      hostname: "job",
      enableIpv6: true,
      networkMtu: 1460,
      volumes: ["/cache"],
      volumesFrom: ["d"],
      volumeDriver: "local",
      volumeDriverOps: { camelCase: "y" },
      volumeKeep: true,
      disableCache: false,
      cacheDir: "/c",
      tmpfs: { "/run": "rw" },
      servicesTmpfs: { "/var/lib/db": "rw" },
      devices: ["/dev/kvm"],
      deviceCgroupRules: ["c 1:3 rwm"],
      servicesDevices: { "docker:*": ["/dev/fuse"] },
      services: [service],
      servicesLimit: 5,
      waitForServicesTimeout: -1,
      containerLabels: { "com.example.teamName": "ci" },
      logOptions: { env: "A,B" },
    };
    expect(written({ docker })).toEqual({
      docker: {
        image: "alpine",
        tls_verify: false,
        privileged: true,
        services_privileged: false,
        pull_policy: ["always", "if-not-present"],
        allowed_pull_policies: ["never"],
        allowed_images: ["a"],
        allowed_services: ["b"],
        allowed_privileged_images: ["c"],
        allowed_privileged_services: ["d"],
        allowed_users: ["e"],
        helper_image: "helper",
        helper_image_flavor: "ubuntu",
        user: "1000",
        group_add: ["f"],
        cap_add: ["NET_ADMIN"],
        cap_drop: ["ALL"],
        security_opt: ["g"],
        services_security_opt: ["h"],
        userns_mode: "host",
        runtime: "runsc",
        disable_entrypoint_overwrite: true,
        memory: "1g",
        memory_swap: "2g",
        memory_reservation: "3g",
        cpus: "1.5",
        cpuset_cpus: "0,1",
        cpuset_mems: "0",
        cpu_shares: 512,
        shm_size: 300000,
        ulimit: { nofile: "1024:2048" },
        oom_kill_disable: true,
        oom_score_adjust: -1,
        gpus: "all",
        sysctls: { "net.ipv4.ip_forward": "1", camelCase: "x" },
        service_memory: "4g",
        service_memory_swap: "5g",
        service_memory_reservation: "6g",
        service_cpus: "2",
        service_cpu_shares: 256,
        service_cpuset_cpus: "2,3",
        service_gpus: "none",
        network_mode: "host",
        dns: ["10.0.0.1"],
        dns_search: ["example"],
        extra_hosts: ["a:10.0.0.2"],
        links: ["b:c"],
        hostname: "job",
        enable_ipv6: true,
        network_mtu: 1460,
        volumes: ["/cache"],
        volumes_from: ["d"],
        volume_driver: "local",
        volume_driver_ops: { camelCase: "y" },
        volume_keep: true,
        disable_cache: false,
        cache_dir: "/c",
        tmpfs: { "/run": "rw" },
        services_tmpfs: { "/var/lib/db": "rw" },
        devices: ["/dev/kvm"],
        device_cgroup_rules: ["c 1:3 rwm"],
        services_devices: { "docker:*": ["/dev/fuse"] },
        services: [{ name: "docker:dind", alias: "docker", entrypoint: ["a"], command: ["b"], environment: ["C=d"] }],
        services_limit: 5,
        wait_for_services_timeout: -1,
        container_labels: { "com.example.teamName": "ci" },
        log_options: { env: "A,B" },
      },
    });
  });

  test("[runners.machine] and [[runners.machine.autoscaling]]", () => {
    const period: Required<AutoscalingConfig> = {
      periods: ["* * 9-17 * * mon-fri *"],
      timezone: "UTC",
      idleCount: 5,
      idleCountMin: 1,
      idleScaleFactor: 1,
      idleTime: 3600,
    };
    const machine: Required<MachineConfig> = {
      idleCount: 1,
      idleScaleFactor: 1.5,
      idleCountMin: 2,
      idleTime: 3,
      maxGrowthRate: 4,
      maxBuilds: 5,
      maxRemovalAttempts: 6,
      machineDriver: "google",
      machineName: "%s",
      machineOptions: ["google-project=p"],
      autoscaling: [period],
    };
    expect(written({ machine })).toEqual({
      machine: {
        IdleCount: 1,
        IdleScaleFactor: 1.5,
        IdleCountMin: 2,
        IdleTime: 3,
        MaxGrowthRate: 4,
        MaxBuilds: 5,
        MaxRemovalAttempts: 6,
        MachineDriver: "google",
        MachineName: "%s",
        MachineOptions: ["google-project=p"],
        autoscaling: [
          {
            Periods: ["* * 9-17 * * mon-fri *"],
            Timezone: "UTC",
            IdleCount: 5,
            IdleCountMin: 1,
            IdleScaleFactor: 1,
            IdleTime: 3600,
          },
        ],
      },
    });
  });

  test("[runners.cache] with [runners.cache.s3] and [runners.cache.gcs]", () => {
    const s3: Required<S3CacheConfig> = {
      serverAddress: "10.0.0.2:9005",
      accessKey: "a",
      secretKey: "b",
      bucketName: "runner",
      bucketLocation: "us-east-1",
      insecure: true,
      authenticationType: "access-key",
      serverSideEncryption: "KMS",
      serverSideEncryptionKeyId: "alias/c",
      dualStack: false,
      pathStyle: true,
      accelerate: false,
      roleArn: "arn:d",
    };
    const gcs: Required<GcsCacheConfig> = {
      bucketName: "bucket",
      credentialsFile: "/key.json",
      accessId: "e",
      privateKey: "f",
      universeDomain: "googleapis.com",
    };
    const cache: Required<CacheConfig> = {
      type: "s3",
      path: "team",
      shared: true,
      maxUploadedArchiveSize: 1,
      s3,
      gcs,
    };
    expect(written({ cache })).toEqual({
      cache: {
        Type: "s3",
        Path: "team",
        Shared: true,
        MaxUploadedArchiveSize: 1,
        s3: {
          ServerAddress: "10.0.0.2:9005",
          AccessKey: "a",
          SecretKey: "b",
          BucketName: "runner",
          BucketLocation: "us-east-1",
          Insecure: true,
          AuthenticationType: "access-key",
          ServerSideEncryption: "KMS",
          ServerSideEncryptionKeyID: "alias/c",
          DualStack: false,
          PathStyle: true,
          Accelerate: false,
          RoleARN: "arn:d",
        },
        gcs: {
          BucketName: "bucket",
          CredentialsFile: "/key.json",
          AccessID: "e",
          PrivateKey: "f",
          UniverseDomain: "googleapis.com",
        },
      },
    });
  });
});

test("config.toml has GitLab's sections, whole numbers without a point and IdleScaleFactor with one", () => {
  expect(
    renderConfigToml(globalTable({ concurrent: 4 }), [
      runnerTable({
        name: "ci",
        limit: 4,
        docker: { image: "alpine", services: [{ name: "docker:dind" }] },
        machine: {
          idleCount: 2,
          idleScaleFactor: 1,
          autoscaling: [{ periods: ["* * * * * * *"], idleScaleFactor: 2 }],
        },
        cache: { type: "s3", s3: { bucketName: "runner" }, gcs: { bucketName: "x" } },
      }),
    ]),
  ).toBe(`concurrent = 4

[[runners]]
name = "ci"
limit = 4

[runners.docker]
image = "alpine"

[[runners.docker.services]]
name = "docker:dind"

[runners.machine]
IdleCount = 2
IdleScaleFactor = 1.0

[[runners.machine.autoscaling]]
Periods = [ "* * * * * * *" ]
IdleScaleFactor = 2.0

[runners.cache]
Type = "s3"

[runners.cache.s3]
BucketName = "runner"

[runners.cache.gcs]
BucketName = "x"
`);
});

test("what is not given is not written", () => {
  expect(written({ name: "ci", docker: { image: "alpine" }, cache: undefined })).toEqual({
    name: "ci",
    docker: { image: "alpine" },
  });
});

describe("mergeTables", () => {
  const table = { a: 1, b: { c: 2, d: { e: 3 } }, list: [1, 2] };

  test("merges tables key by key", () => {
    expect(mergeTables(table, { b: { d: { f: 4 } }, g: { h: 5 } })).toEqual({
      a: 1,
      b: { c: 2, d: { e: 3, f: 4 } },
      list: [1, 2],
      g: { h: 5 },
    });
  });

  test("replaces anything else", () => {
    expect(mergeTables(table, { a: "x", list: [3], b: 7 })).toEqual({ a: "x", list: [3], b: 7 });
    expect(mergeTables(table, { a: { x: 1 } })).toMatchObject({ a: { x: 1 } });
  });

  test("removes with null, also within a table", () => {
    expect(mergeTables(table, { a: null, b: { c: null }, absent: null })).toStrictEqual({
      b: { d: { e: 3 } },
      list: [1, 2],
    });
  });

  test("changes neither", () => {
    const overrides = { b: { c: null } };
    mergeTables(table, overrides);
    expect(table).toEqual({ a: 1, b: { c: 2, d: { e: 3 } }, list: [1, 2] });
    expect(overrides).toEqual({ b: { c: null } });
  });

  test("takes a variable as it is, not for a table", () => {
    expect(resolved((stack) => JSON.stringify(mergeTables({ a: { b: 1 } }, { a: variable(stack).stringValue })))).toBe(
      '{"a":"${var.tuned}"}',
    );
  });
});

describe("checkRunnerTable", () => {
  const right = {
    executor: "docker+machine",
    shell: "bash",
    docker: { pull_policy: ["always", "if-not-present"], allowed_pull_policies: ["never"] },
    cache: { Type: "s3" },
    machine: { MachineName: "ci-%s" },
  };

  test("takes what GitLab Runner takes, and entries without these keys", () => {
    checkRunnerTable(right);
    checkRunnerTable({ executor: "shell" });
    checkRunnerTable({ executor: "docker", docker: { pull_policy: "always" } });
  });

  test.each([
    ["no executor", { executor: undefined }, "'executor' must not be removed: GitLab Runner needs one"],
    [
      "unknown executor",
      { executor: "docker-machine" },
      "'executor' must be one of custom, docker, docker+machine, docker-autoscaler, docker-windows, instance, kubernetes, parallels, shell, ssh, virtualbox, got \"docker-machine\"",
    ],
    ["unknown shell", { shell: "zsh" }, "'shell' must be one of bash, sh, cmd, pwsh, powershell, got \"zsh\""],
    [
      "unknown pull policy",
      { docker: { pull_policy: "allways" } },
      "'docker.pull_policy' must be one of always, if-not-present, never, got \"allways\"",
    ],
    [
      "unknown pull policy in a list",
      { docker: { pull_policy: ["always", "sometimes"] } },
      "'docker.pull_policy' must be one of always, if-not-present, never, got \"sometimes\"",
    ],
    [
      "unknown allowed pull policy",
      { docker: { allowed_pull_policies: ["none"] } },
      "'docker.allowed_pull_policies' must be one of always, if-not-present, never, got \"none\"",
    ],
    ["unknown cache type", { cache: { Type: "S4" } }, "'cache.Type' must be one of s3, gcs, azure, got \"S4\""],
    [
      "MachineName without %s",
      { machine: { MachineName: "ci" } },
      "'machine.MachineName' must contain %s once, in whose place each VM's own part comes, got \"ci\"",
    ],
    [
      "MachineName with %s twice",
      { machine: { MachineName: "%s-%s" } },
      "'machine.MachineName' must contain %s once, in whose place each VM's own part comes, got \"%s-%s\"",
    ],
  ])("%s", (_, wrong, message) => {
    expect(() => checkRunnerTable(mergeTables(right, wrong))).toThrow(new Error(message));
  });

  test("does not judge variables", () => {
    resolved((stack) => {
      const value = variable(stack).stringValue;
      checkRunnerTable({
        executor: value,
        shell: value,
        docker: { pull_policy: [value], allowed_pull_policies: variable(stack).listValue },
        cache: { Type: value },
        machine: { MachineName: value },
      });
      return "";
    });
  });
});
