import { Annotations, Fn, TerraformStack, Token } from "cdktf";
import { Construct, IConstruct } from "constructs";
import { CacheHost } from "./cache-host";
import { ownWayOut } from "./network-attachment";
import { check, duration, httpUrl, integer } from "./rules";
import { RunnerHost } from "./runner-host";
import {
  asTable,
  CacheConfig,
  checkRunnerTable,
  DockerConfig,
  Flag,
  mergeTables,
  RunnerConfig,
  runnerTable,
  Shell,
  TomlTable,
} from "./runner-config";
import { RunnerWorkers, WorkersConfig } from "./runner-workers";
import { checkSecretReference, SecretReference, secretUri } from "./secret-reference";

export interface RunnerRegistrationProps {
  /** The host that asks for this runner's jobs, of the same stack. */
  readonly host: RunnerHost;
  /** Where its jobs run. */
  readonly workers: RunnerWorkers;
  /** URL of GitLab, such as https://gitlab.com. */
  readonly gitlabUrl: string;
  /**
   * Secret with the runner authentication token, `glrt-…`, that GitLab shows once when a runner is created. A new version of
   * it is live within a minute. Tags, locked and run-untagged are settings of the runner in GitLab.
   * https://docs.gitlab.com/ci/runners/runners_scope/
   */
  readonly token: SecretReference;
  /**
   * Name of the runner in config.toml and in its logs.
   *
   * @default - the name of the host
   */
  readonly name?: string;
  /**
   * Host whose registry mirror and build cache the jobs use. It lets this runner's manager and workers in.
   *
   * @default - none: images come from their registries, caches stay on each VM
   */
  readonly cacheHost?: CacheHost;
  /**
   * `[runners.cache]`; with a `cacheHost` only what differs from it.
   *
   * @default - the build cache of the `cacheHost`
   */
  readonly cache?: CacheConfig;
  /**
   * `[runners.docker]`.
   *
   * @default - image alpine:latest, not privileged, volume /cache
   */
  readonly docker?: DockerConfig;
  /**
   * Whether jobs find the registry mirror's address as /etc/docker/daemon.json, so that a docker-in-docker service uses it too.
   *
   * @default - true with a `cacheHost`
   */
  readonly mirrorInJobs?: boolean;
  /**
   * `environment`: variables that every job gets, as `NAME=value`. Jobs can read them.
   *
   * @default - none
   */
  readonly environment?: string[];
  /**
   * `request_concurrency`: most requests for a job at once, at least 1.
   *
   * @default - GitLab Runner's: 1
   */
  readonly requestConcurrency?: number;
  /**
   * `output_limit`: size of a job's log in kB.
   *
   * @default - GitLab Runner's: 4096
   */
  readonly outputLimit?: number;
  /** `strict_check_interval`. @default - GitLab Runner's: false */
  readonly strictCheckInterval?: Flag;
  /** `unhealthy_requests_limit`. @default - GitLab Runner's: 3 */
  readonly unhealthyRequestsLimit?: number;
  /** `unhealthy_interval`, a Go duration. @default - GitLab Runner's: 60m */
  readonly unhealthyInterval?: string;
  /** `job_status_final_update_retry_limit`. @default - GitLab Runner's: 10 */
  readonly jobStatusFinalUpdateRetryLimit?: number;
  /** `builds_dir`, in the container. @default - GitLab Runner's: /builds */
  readonly buildsDir?: string;
  /** `cache_dir`, in the container. @default - GitLab Runner's: /cache */
  readonly cacheDir?: string;
  /** `clone_url`: where jobs clone from, if not from GitLab's own URL. @default - the GitLab URL */
  readonly cloneUrl?: string;
  /** `tls-ca-file` on the host, for a GitLab with a private certificate authority. @default - the host's own authorities */
  readonly tlsCaFile?: string;
  /** `pre_get_sources_script`. @default - none */
  readonly preGetSourcesScript?: string;
  /** `post_get_sources_script`. @default - none */
  readonly postGetSourcesScript?: string;
  /** `pre_build_script`. @default - none */
  readonly preBuildScript?: string;
  /** `post_build_script`. @default - none */
  readonly postBuildScript?: string;
  /** `prepare_timeout`, a Go duration. @default - GitLab Runner's */
  readonly prepareTimeout?: string;
  /** `get_sources_timeout`, a Go duration. @default - GitLab Runner's */
  readonly getSourcesTimeout?: string;
  /** `debug_trace_disabled`: whether CI_DEBUG_TRACE is ignored. @default - GitLab Runner's: false */
  readonly debugTraceDisabled?: Flag;
  /** `safe_directory_checkout`. @default - GitLab Runner's */
  readonly safeDirectoryCheckout?: Flag;
  /** `clean_git_config`. @default - GitLab Runner's */
  readonly cleanGitConfig?: Flag;
  /** `shell` that runs jobs' scripts. @default - GitLab Runner's: bash */
  readonly shell?: Shell;
  /**
   * `feature_flags`: https://docs.gitlab.com/runner/configuration/feature-flags/
   *
   * @default - FF_DISABLE_AUTOMATIC_TOKEN_ROTATION, which stays unless it is set here: a token that the runner renewed by itself would be in no secret
   */
  readonly featureFlags?: { readonly [flag: string]: Flag };
  /**
   * Anything else for this `[[runners]]` entry, with GitLab's own keys and tables; `null` removes a key. It wins over all above.
   *
   * @default - nothing
   */
  readonly overrides?: TomlTable;
}

/** The folder that each worker's start-up script makes, with the mirror in its daemon.json. */
const MIRROR_VOLUME = "/var/lib/gitlab-runner-worker/etc-docker:/etc/docker";

/** One `[[runners]]` entry of a host: a runner that was created in GitLab, and where and how its jobs run. */
export class RunnerRegistration extends Construct {
  constructor(scope: Construct, id: string, props: RunnerRegistrationProps) {
    super(scope, id);
    const { host, workers, cacheHost } = props;
    if (!(host instanceof RunnerHost)) {
      throw new Error(`'host' must be a RunnerHost, got ${typeof host}`);
    }
    this.checkStack("host", host, "its config.toml is written there");
    this.checkStack("workers", workers, "its firewall rule names the host");
    if (!Token.isUnresolved(host.project) && !Token.isUnresolved(workers.project) && host.project !== workers.project) {
      throw new Error(
        `'workers' must be of the host's own project, '${host.project}', got '${workers.project}': it may make VMs only there`,
      );
    }
    if (cacheHost !== undefined) {
      this.checkStack("cacheHost", cacheHost, "its firewall rule names the host and the workers");
    }
    check(httpUrl, "gitlabUrl", props.gitlabUrl);
    check(httpUrl, "cloneUrl", props.cloneUrl);
    checkSecretReference("token", props.token);
    check(integer(1, undefined, "requests at once"), "requestConcurrency", props.requestConcurrency);
    check(integer(1, undefined, "kB"), "outputLimit", props.outputLimit);
    for (const property of ["unhealthyInterval", "prepareTimeout", "getSourcesTimeout"] as const) {
      check(duration, property, props[property]);
    }

    const workersConfig = workers.attach({
      path: host.node.path,
      name: host.name,
      serviceAccountEmail: host.serviceAccountEmail,
      registryMirrorUrl: cacheHost?.registryMirrorUrl,
    });
    const runner = mergeTables(runnerTable(this.runnerConfig(props, workersConfig)), props.overrides ?? {});
    checkRunnerTable(runner);
    this.warn(runner, workersConfig, host.gitlabRunnerVersion);

    host.addRunner(runner);
    host.grantSecretAccess(props.token);
    host.grantActAs(workers.serviceAccountEmail);
    host.usedByJobs(workers);
    ownWayOut(this, workers.network).forEach((wayOut) => host.usedByJobs(wayOut));
    if (cacheHost !== undefined) {
      host.usedByJobs(cacheHost);
      host.grantSecretAccess(cacheHost.buildCache.credentials);
      cacheHost.allowFrom(host.serviceAccountEmail);
      cacheHost.allowFrom(workers.serviceAccountEmail);
    }
  }

  private checkStack(property: string, construct: IConstruct, why: string): void {
    const stack = TerraformStack.of(this);
    if (TerraformStack.of(construct) !== stack) {
      throw new Error(
        `'${property}' must be of the registration's own stack, '${stack.node.id}', got '${construct.node.path}': ${why}`,
      );
    }
  }

  private runnerConfig(props: RunnerRegistrationProps, workers: WorkersConfig): RunnerConfig {
    const {
      host,
      workers: _workers,
      gitlabUrl,
      token,
      cacheHost,
      cache,
      docker,
      mirrorInJobs,
      overrides: _overrides,
      ...runner
    } = props;
    const mirrorVolume = (mirrorInJobs ?? true) && cacheHost !== undefined ? [MIRROR_VOLUME] : [];
    const hostCache = cacheHost?.buildCache.config;
    return {
      ...runner,
      // The secret says which token it is. A token that the runner renews by itself would be in no secret.
      featureFlags: withFlags({ FF_DISABLE_AUTOMATIC_TOKEN_ROTATION: true }, props.featureFlags),
      name: props.name ?? host.name,
      url: gitlabUrl,
      token: secretUri(token),
      executor: workers.executor,
      limit: workers.limit,
      docker: {
        image: "alpine:latest",
        privileged: false,
        ...docker,
        volumes: withMirror(docker?.volumes ?? ["/cache"], mirrorVolume),
      },
      machine: workers.machine,
      cache: (hostCache ?? cache) && {
        ...hostCache,
        ...cache,
        s3: (hostCache?.s3 ?? cache?.s3) && { ...hostCache?.s3, ...cache?.s3 },
      },
    };
  }

  private warn(runner: TomlTable, workers: WorkersConfig, version: string): void {
    const warnings = Annotations.of(this);
    const docker = asTable(runner["docker"]);
    const maxBuilds = asTable(runner["machine"])["MaxBuilds"] ?? 0;
    if (
      docker["privileged"] === true &&
      typeof maxBuilds === "number" &&
      maxBuilds !== 1 &&
      !Token.isUnresolved(maxBuilds)
    ) {
      warnings.addWarning(
        `'docker.privileged' with 'maxBuilds' ${maxBuilds}: a job is root on its VM and can leave something behind for the next one. ` +
          "GitLab recommends 'maxBuilds' 1 for privileged jobs: https://docs.gitlab.com/runner/security/",
      );
    }
    const { removedIn } = workers;
    if (removedIn !== undefined && !Token.isUnresolved(version) && Number(version.split(".")[0]) >= removedIn) {
      warnings.addWarning(
        `'gitlabRunnerVersion' ${version}: GitLab Runner has no ${workers.executor} executor from ${removedIn}.0 on. Stay below it with this kind of workers.`,
      );
    }
  }
}

type FeatureFlags = NonNullable<RunnerRegistrationProps["featureFlags"]>;

function withFlags(own: FeatureFlags, flags: FeatureFlags = {}): FeatureFlags {
  return Token.isUnresolved(flags) ? Token.asAnyMap(Fn.merge([own, flags])) : { ...own, ...flags };
}

function withMirror(volumes: string[], mirror: string[]): string[] {
  if (mirror.length === 0) {
    return volumes;
  }
  return Token.isUnresolved(volumes) ? Token.asList(Fn.concat([volumes, mirror])) : [...volumes, ...mirror];
}
