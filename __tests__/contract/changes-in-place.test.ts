import { join } from "node:path";
import { describeIf, temporaryFolder } from "./programs";
import { SUBJECTS, synthesize, Values, valuesFor } from "./subjects";
import { applyIsHarmless, parse, ResourceChange, Terraform } from "./terraform";

/** What an operator tunes, and the resources that change for it. */
const IN_PLACE: [values: Values, changed: RegExp[]][] = [
  [{ concurrent: 20 }, [/_compute_instance\.RunnerHost/]],
  [{ idle_count: 2 }, [/_compute_instance\.RunnerHost/]],
  [{ worker_machine_type: "n2-standard-8" }, [/_compute_instance\.RunnerHost/]],
  [{ worker_spot: true, privileged: true, default_image: "debian:12" }, [/_compute_instance\.RunnerHost/]],
  [{ cache_max_age_days: 7 }, [/_compute_instance\.CacheHost/]],
  [{ registry_ttl: "72h" }, [/_compute_instance\.CacheHost/]],
  [{ drain_timeout: 60 }, [/_compute_instance\.RunnerHost/]],
  [{ cache_disk_gb: 200 }, [/_compute_disk\.CacheHost/]],
  [{ runner_token_secret: "another-token" }, [/_compute_instance\.RunnerHost/]],
  [{ labels: { team: "ci" } }, [/_compute_instance\.RunnerHost/, /_compute_instance\.CacheHost/]],
];

const REPLACED = "replaced";
const summary = ({ change: { actions } }: ResourceChange): string =>
  ["create,delete", "delete,create"].includes(actions.join()) ? REPLACED : actions.join();

describeIf(applyIsHarmless())("the ready stack, once applied", () => {
  const folder = temporaryFolder();
  const terraform = new Terraform(join(folder, "terraform"));
  let needed: Values;

  beforeAll(async () => {
    const configuration = parse(await synthesize("main.ts", join(folder, "cdktf.out")));
    needed = valuesFor(SUBJECTS[0], configuration);
    terraform.write(configuration);
    terraform.values(needed);
    await terraform.init();
    await terraform.apply();
  });

  const changesWith = (values: Values): Promise<ResourceChange[]> => terraform.changes({ ...needed, ...values });

  test("has nothing to change", async () => {
    expect(await changesWith({})).toEqual([]);
  });

  test.each(IN_PLACE)("with %j changes in place", async (values, changed) => {
    const changes = await changesWith(values);
    for (const pattern of changed) {
      expect(changes.filter(({ address }) => pattern.test(address)).map(summary)).toEqual(["update"]);
    }
    // The rights to a secret are named after it: one goes and one comes.
    const others = changes.filter(({ type }) => type !== "google_secret_manager_secret_iam_member");
    expect(others.filter((change) => summary(change) !== "update")).toEqual([]);
  });

  test("with another version of GitLab Runner drains and replaces the runner host, waits for it again, and touches no other VM", async () => {
    const changes = await changesWith({ gitlab_runner_version: "19.4.0" });
    const summaries = Object.fromEntries(changes.map((change) => [change.address, summary(change)]));
    const replaced = (address: RegExp) =>
      Object.entries(summaries).filter(([key, value]) => address.test(key) && value === REPLACED);
    expect(replaced(/^google_compute_instance\.RunnerHost/)).toHaveLength(1);
    expect(replaced(/^null_resource\.RunnerHost_Ready/)).toHaveLength(1);
    expect(replaced(/^null_resource\.RunnerHost_Drain/)).toHaveLength(1);
    expect(
      Object.keys(summaries).filter((address) => !/^(google_compute_instance|null_resource)\.RunnerHost/.test(address)),
    ).toEqual([]);
  });

  test("with another data disk replaces the cache host too: only a new VM formats it", async () => {
    const configuration = parse(await synthesize("main.ts", join(folder, "cdktf.out")));
    const { google_compute_disk: disks } = configuration.resource;
    const [disk] = Object.keys(disks);
    terraform.write({
      ...configuration,
      resource: {
        ...configuration.resource,
        google_compute_disk: { [disk]: { ...disks[disk], type: "pd-ssd" } },
      },
    });
    const replaced = (await changesWith({})).filter((change) => summary(change) === REPLACED);
    expect(
      replaced.map(({ address }) => address.replace(/_[0-9A-F]{8}$/, "")).filter((address) => !/^null/.test(address)),
    ).toEqual(["google_compute_disk.CacheHost_Disk", "google_compute_instance.CacheHost"]);
    terraform.write(configuration);
  });

  test("with another program on a host replaces that host", async () => {
    const configuration = parse(await synthesize("main.ts", join(folder, "cdktf.out")));
    const instances = configuration.resource["google_compute_instance"];
    expect(Object.keys(instances)).toHaveLength(2);
    const { null_resource: resources } = configuration.resource;
    const [bootstrap] = Object.keys(resources).filter((name) => name.startsWith("CacheHost_Bootstrap"));
    const triggers = { ...(resources[bootstrap]["triggers"] as object), programs: "others" };
    terraform.write({
      ...configuration,
      resource: { ...configuration.resource, null_resource: { ...resources, [bootstrap]: { triggers } } },
    });
    const changes = await changesWith({});
    expect(changes.filter(({ type }) => type === "google_compute_instance").map(({ address }) => address)).toEqual([
      expect.stringMatching(/^google_compute_instance\.CacheHost/),
    ]);
    terraform.write(configuration);
  });
});
