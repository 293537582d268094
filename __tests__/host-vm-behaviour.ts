import { TerraformStack, Token } from "cdktf";
import { HostVm, HostVmProps } from "../constructs/host-vm";
import { HOST_IMAGE } from "../constructs/versions";
import {
  networkPaths,
  ownerLabels,
  place,
  resolved,
  Synthesized,
  synthesized,
  uniqueNames,
  variable,
} from "./synthesized";

/** What every host does, whatever it is for. */
export function behavesAsHostVm(create: (stack: TerraformStack, id: string, props: HostVmProps) => HostVm): void {
  const host = (props: Partial<HostVmProps> = {}) =>
    synthesized((stack) => {
      create(stack, "Host", { ...place, ...props });
    });

  describe("the VM", () => {
    test("has no public address", () => {
      const { network_interface: interfaces } = host().one("google_compute_instance");
      expect(interfaces).toEqual([expect.objectContaining(networkPaths)]);
      expect(JSON.stringify(interfaces)).not.toContain("access_config");
    });

    test("is shielded", () => {
      expect(host().one("google_compute_instance")).toMatchObject({
        shielded_instance_config: { enable_secure_boot: true, enable_vtpm: true, enable_integrity_monitoring: true },
      });
    });

    test("acts as a service account of its own, which IAM alone limits", () => {
      const stack = host();
      expect(stack.one("google_service_account")).toMatchObject({ account_id: "stack-host", project: "my-project" });
      expect(stack.one("google_compute_instance")).toMatchObject({
        service_account: {
          email: expect.stringMatching(/^\$\{google_service_account\.Host_ServiceAccount_\w+\.email\}$/) as string,
          scopes: ["https://www.googleapis.com/auth/cloud-platform"],
        },
      });
    });

    test("acts as an existing service account, and none is made", () => {
      const stack = host({ serviceAccountEmail: "mine@my-project.iam.gserviceaccount.com" });
      expect(stack.all("google_service_account")).toEqual([]);
      expect(stack.one("google_compute_instance")).toMatchObject({
        service_account: { email: "mine@my-project.iam.gserviceaccount.com" },
      });
    });

    test("publishes its state, and lets people in by OS Login only", () => {
      expect(host().one("google_compute_instance").metadata).toMatchObject({
        "enable-guest-attributes": "TRUE",
        "enable-oslogin": "TRUE",
        "block-project-ssh-keys": "TRUE",
        "user-data": expect.stringMatching(/^#cloud-config\n/) as string,
      });
    });

    test("has the size, image and boot disk that are given", () => {
      expect(host().one("google_compute_instance")).toMatchObject({
        machine_type: "e2-small",
        boot_disk: { initialize_params: { image: HOST_IMAGE, size: 20, type: "pd-balanced" } },
      });
      const image = "projects/my-project/global/images/family/host";
      expect(
        host({ machineType: "n2-standard-2", bootDiskGb: 30, image }).one("google_compute_instance"),
      ).toMatchObject({ machine_type: "n2-standard-2", boot_disk: { initialize_params: { image, size: 30 } } });
    });

    test("is replaced when its programs or settings change, not for a label", () => {
      const stack = host();
      const [[bootstrap, { triggers }]] = Object.entries(stack.resources["null_resource"]).filter(([id]) =>
        id.startsWith("Host_Bootstrap_"),
      );
      expect(stack.one("google_compute_instance")).toMatchObject({
        lifecycle: {
          replace_triggered_by: [`null_resource.${bootstrap}`],
          ignore_changes: ["boot_disk[0].initialize_params[0].labels"],
        },
      });
      expect(triggers).toMatchObject({
        programs: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
        settings: expect.stringMatching(/^\{"docker": /) as string,
      });
      expect(host({ labels: { team: "ci" } }).one("null_resource", "Host_Bootstrap")["triggers"]).toEqual(triggers);
    });

    test("exists only after the rights without which it cannot set itself up", () => {
      const stack = host();
      const members = Object.keys(stack.resources).filter((type) => type.endsWith("_iam_member"));
      expect(members.length).toBeGreaterThan(0);
      expect(new Set(stack.one("google_compute_instance")["depends_on"] as string[])).toEqual(
        new Set(members.flatMap((type) => Object.keys(stack.resources[type]).map((id) => `${type}.${id}`))),
      );
    });
  });

  test("rights are members, never bindings or policies, which would take rights from others", () => {
    const types = Object.keys(host().resources).filter((type) => /_iam_/.test(type) && !/custom_role$/.test(type));
    expect(types).not.toEqual([]);
    expect(types.filter((type) => !type.endsWith("_iam_member"))).toEqual([]);
  });

  describe("SSH", () => {
    test("comes from Identity-Aware Proxy to this host only", () => {
      expect(host().one("google_compute_firewall", "Host_SshThroughIap")).toMatchObject({
        network: networkPaths.network,
        source_ranges: ["35.235.240.0/20"],
        target_service_accounts: [expect.stringMatching(/^\$\{google_service_account\.Host_/)],
        allow: [{ protocol: "tcp", ports: ["22"] }],
      });
    });

    test("is off", () => {
      expect(host({ sshThroughIap: false }).all("google_compute_firewall", "Host_SshThroughIap")).toEqual([]);
    });
  });

  test("a network that is named is of the host's project, or of its own, whatever the provider's is", () => {
    const attached = (network: HostVmProps["network"]) =>
      host({ network }).one("google_compute_instance")["network_interface"];
    expect(attached({ ...place.network, project: "network-project" })).toEqual([
      expect.objectContaining({
        network: "projects/network-project/global/networks/shared",
        subnetwork: "projects/network-project/regions/europe-west1/subnetworks/builds",
      }),
    ]);
    const paths = { network: "global/networks/mine", subnetwork: "https://compute/regions/r/subnetworks/s" };
    expect(attached(paths)).toEqual([expect.objectContaining(paths)]);
  });

  test("firewall rules are made in the network's project, all else in the host's", () => {
    const stack = host({ network: { ...place.network, project: "network-project" } });
    for (const [type, ofType] of Object.entries(stack.resources)) {
      for (const { project } of Object.values(ofType)) {
        expect({ type, project }).toEqual({
          type,
          project:
            type === "google_compute_firewall"
              ? "network-project"
              : type === "null_resource"
                ? undefined
                : "my-project",
        });
      }
    }
  });

  describe("Prometheus metrics", () => {
    const rules = (props: Partial<HostVmProps> = {}) => host(props).all("google_compute_firewall", "Host_Metrics");

    test("are for nobody by default", () => {
      expect(rules()).toEqual([]);
      expect(rules({ metricsClientRanges: [] })).toEqual([]);
    });

    test("are for the ranges that are given, at one port", () => {
      expect(rules({ metricsClientRanges: ["10.1.0.0/16", "10.2.0.0/16"] })).toEqual([
        expect.objectContaining({
          name: "stack-host-metrics",
          source_ranges: ["10.1.0.0/16", "10.2.0.0/16"],
          target_service_accounts: [expect.stringMatching(/^\$\{google_service_account\.Host_/)],
          allow: [{ protocol: "tcp", ports: [expect.stringMatching(/^925[23]$/)] }],
        }),
      ]);
    });

    test("are for the host itself when a variable turns out to be empty, not for the world", () => {
      const stack = synthesized((stack) => {
        create(stack, "Host", { ...place, metricsClientRanges: variable(stack).listValue });
      });
      expect(stack.one("google_compute_firewall", "Host_Metrics")["source_ranges"]).toMatch(
        /^\$\{coalescelist\(var\.tuned, \["\$\{google_compute_instance\.Host_\w+\.network_interface\[0\]\.network_ip\}\/32"\]\)\}$/,
      );
    });
  });

  describe("Google's Ops Agent", () => {
    const settings = (stack: Synthesized) =>
      (stack.one("null_resource", "Host_Bootstrap")["triggers"] as { settings: string }).settings;
    const grants = (stack: Synthesized) =>
      stack.all("google_project_iam_member", "Host").filter(({ role }) => /logging|monitoring/.test(String(role)));

    test("is off: neither installed nor allowed anything", () => {
      for (const stack of [host(), host({ opsAgent: false })]) {
        expect(settings(stack)).toContain('"opsAgent": {"enabled": false}');
        expect(grants(stack)).toEqual([]);
      }
    });

    test("is installed from Google, and may write logs and metrics before the VM is there", () => {
      const stack = host({ opsAgent: true });
      expect(settings(stack)).toContain(
        '"opsAgent": {"enabled": true, "url": "https://packages.cloud.google.com/apt", "keyUrl": "https://packages.cloud.google.com/apt/doc/apt-key.gpg"',
      );
      expect(settings(stack)).toContain(
        '"suite": "google-cloud-ops-agent-$CODENAME-2", "components": "main", "packages": ["google-cloud-ops-agent=2.*"]',
      );
      expect(grants(stack).map(({ role, project, count }) => ({ role, project, count }))).toEqual([
        { role: "roles/logging.logWriter", project: "my-project" },
        { role: "roles/monitoring.metricWriter", project: "my-project" },
      ]);
      for (const right of ["WriteLogs", "WriteMetrics"]) {
        expect(stack.one("google_compute_instance")["depends_on"]).toContainEqual(
          expect.stringMatching(new RegExp(`^google_project_iam_member\\.Host_${right}_\\w+$`)),
        );
      }
    });

    test("comes from a mirror", () => {
      const repository = {
        url: "https://apt.example",
        keyUrl: "https://apt.example/key",
        keyFingerprint: "A".repeat(40),
        component: "main",
      };
      expect(settings(host({ opsAgent: true, opsAgentRepository: repository }))).toMatch(
        /"opsAgent": \{"enabled": true, "url": "https:\/\/apt\.example"/,
      );
    });

    test("is Terraform's to decide by a variable", () => {
      const stack = synthesized((stack) => {
        create(stack, "Host", { ...place, opsAgent: variable(stack).booleanValue });
      });
      expect(settings(stack)).toMatch(/"opsAgent": \{"enabled": \$\{jsonencode\(var\.tuned\)\}, "url": /);
      expect(grants(stack).map(({ count }) => count)).toEqual(Array(2).fill("${var.tuned ? 1 : 0}"));
    });
  });

  describe("terraform apply", () => {
    test("waits 15 minutes for a VM that is new, and is told what to ask for", () => {
      const ready = host().one("null_resource", "Host_Ready");
      expect(ready).toMatchObject({
        triggers: {
          instance: expect.stringMatching(/^\$\{google_compute_instance\.Host_\w+\.instance_id\}$/) as string,
        },
        provisioner: [
          {
            "local-exec": {
              command: 'eval "$WAIT_FOR_READY"',
              interpreter: ["/bin/sh", "-c"],
              environment: {
                WAIT_FOR_READY: expect.stringMatching(/^#!\/bin\/sh\n/) as string,
                PROJECT: "my-project",
                ZONE: "europe-west1-b",
                TIMEOUT_SECONDS: "900",
              },
            },
          },
        ],
      });
      expect(JSON.stringify(ready)).not.toMatch(/\/cloud-init\/|file\(/);
    });

    test("waits as long as is given, or not at all", () => {
      expect(JSON.stringify(host({ readyTimeout: 60 }).one("null_resource", "Host_Ready"))).toContain(
        '"TIMEOUT_SECONDS":"60"',
      );
      expect(host({ readyTimeout: 0 }).all("null_resource", "Host_Ready")).toEqual([]);
    });
  });

  describe("labels", () => {
    test("name the owner on everything that Google has labels for", () => {
      const labels = ownerLabels(host({ labels: { team: "ci", "gitlab-runner": "somebody" } }));
      expect(labels.length).toBeGreaterThan(1);
      for (const each of labels) {
        expect(each).toEqual({ team: "ci", "gitlab-runner": "stack-host" });
      }
    });

    test("of a variable are merged by Terraform", () => {
      const labels = ownerLabels(
        synthesized((stack) => {
          create(stack, "Host", { ...place, labels: Token.asStringMap(variable(stack).value) });
        }),
      );
      for (const each of labels) {
        expect(each).toBe('${merge(var.tuned, {"gitlab-runner" = "stack-host"})}');
      }
    });
  });

  test("tells its name, place, address and the command that opens a shell", () => {
    expect(
      resolved((stack) => {
        const { name, project, zone, internalAddress, sshCommand } = create(stack, "Host", place);
        return { name, project, zone, internalAddress, sshCommand };
      }),
    ).toEqual({
      name: "stack-host",
      project: "my-project",
      zone: "europe-west1-b",
      internalAddress: expect.stringMatching(
        /^\$\{google_compute_instance\.Host_\w+\.network_interface\[0\]\.network_ip\}$/,
      ) as string,
      sshCommand: "gcloud compute ssh stack-host --project=my-project --zone=europe-west1-b --tunnel-through-iap",
    });
  });

  describe("against the rules", () => {
    const name =
      "be a Google Cloud resource name (1 to 63 of a-z, 0-9 and -, beginning with a letter, not ending in -)";

    test.each([
      [
        "project",
        "123456",
        "be a Google Cloud project id (6 to 30 of a-z, 0-9 and -, beginning with a letter), not its name or number",
      ],
      ["zone", "europe-west1", "be a Google Cloud zone such as us-central1-a"],
      ["name", "n".repeat(64), name],
      ["name", "Runner_1", name],
      ["machineType", "E2", "be a machine type such as e2-standard-2"],
      ["image", "ubuntu-2404-lts", "be an image such as projects/cos-cloud/global/images/family/cos-stable"],
      ["bootDiskGb", 9, "be between 10 and 65536 (GB, and no smaller than the image)"],
      ["readyTimeout", -1, "be between 0 and 3600 (seconds)"],
    ])("%s: %j", (property, value, must) => {
      expect(() => host({ [property]: value })).toThrow(
        new Error(`'${property}' must ${must}, got ${JSON.stringify(value)}`),
      );
    });

    test("name: so long that a name made from it has over 63 characters", () => {
      const name = "n".repeat(60);
      expect(() => host({ name })).toThrow(/^'name' must .*, got "n{60}"$/);
    });

    test("metricsClientRanges: no range", () => {
      expect(() => host({ metricsClientRanges: ["10.0.0.0/8", "10.0.0.1"] })).toThrow(
        new Error(`'metricsClientRanges' must be an IPv4 range such as 10.0.0.0/8, got "10.0.0.1"`),
      );
    });

    test("labels: a bad key", () => {
      expect(() => host({ labels: { Team: "ci" } })).toThrow(
        new Error(`'labels' must be a label key (1 to 63 of a-z, 0-9, _ and -, beginning with a letter), got "Team"`),
      );
    });
  });

  describe("a Terraform variable is taken unjudged for", () => {
    test.each(["project", "zone", "name", "machineType", "image", "serviceAccountEmail"])("%s", (property) => {
      const { text } = synthesized((stack) => {
        create(stack, "Host", { ...place, [property]: variable(stack).stringValue });
      });
      expect(text).toMatch(/\$\{(split\("-", )?var\.tuned\}|"-", var\.tuned|, var\.tuned/);
    });

    test.each(["bootDiskGb", "readyTimeout"])("%s", (property) => {
      const { text } = synthesized((stack) => {
        create(stack, "Host", { ...place, [property]: variable(stack).numberValue });
      });
      expect(text).toContain("${var.tuned}");
    });
  });

  test("two in one stack do not collide", () => {
    const names = uniqueNames(
      synthesized((stack) => {
        create(stack, "One", place);
        create(stack, "Two", place);
      }),
    );
    expect(names.length).toBeGreaterThan(6);
    expect(new Set(names).size).toBe(names.length);
  });
}
