import "./readable-snapshots";
import { RunnerNetwork, RunnerNetworkProps } from "../constructs/runner-network";
import { resolved, synthesized, uniqueNames, variable } from "./synthesized";

const props = { project: "my-project", region: "europe-west1" };
const network = (changed: Partial<RunnerNetworkProps> = {}) =>
  synthesized((stack) => new RunnerNetwork(stack, "Network", { ...props, ...changed }));

test("default network", () => {
  expect(network().resources).toMatchSnapshot();
});

test("no way in: no firewall rule, no subnetwork of its own accord", () => {
  const stack = network();
  expect(stack.all("google_compute_firewall")).toEqual([]);
  expect(stack.one("google_compute_network")).toMatchObject({ auto_create_subnetworks: false });
});

test("the way out is NAT for all of the network, and Google's own APIs without it", () => {
  const stack = network();
  expect(stack.one("google_compute_subnetwork")).toMatchObject({
    private_ip_google_access: true,
    ip_cidr_range: "10.128.0.0/20",
  });
  expect(stack.one("google_compute_router_nat")).toMatchObject({
    router: expect.stringMatching(/^\$\{google_compute_router\.Network_Router_[0-9A-F]+\.name\}$/) as string,
    nat_ip_allocate_option: "AUTO_ONLY",
    source_subnetwork_ip_ranges_to_nat: "ALL_SUBNETWORKS_ALL_IP_RANGES",
  });
});

test("hosts and workers are attached by self link", () => {
  expect(
    resolved((stack) => {
      const { network, subnetwork, project } = new RunnerNetwork(stack, "Network", props);
      return [network, subnetwork, project];
    }),
  ).toEqual([
    expect.stringMatching(/^\$\{google_compute_network\.Network_[0-9A-F]+\.self_link\}$/),
    expect.stringMatching(/^\$\{google_compute_subnetwork\.Network_Subnetwork_[0-9A-F]+\.self_link\}$/),
    "my-project",
  ]);
});

test("name and range are chosen", () => {
  const stack = network({ name: "ci", ipCidrRange: "10.0.0.0/24" });
  for (const type of Object.keys(stack.resources)) {
    expect(stack.one(type)).toMatchObject({ name: "ci" });
  }
  expect(stack.one("google_compute_subnetwork")).toMatchObject({ ip_cidr_range: "10.0.0.0/24" });
});

test.each([
  [
    "project",
    "My Project",
    "be a Google Cloud project id (6 to 30 of a-z, 0-9 and -, beginning with a letter), not its name or number",
  ],
  ["region", "europe-west1-b", "be a Google Cloud region such as us-central1"],
  [
    "name",
    "n".repeat(64),
    "be a Google Cloud resource name (1 to 63 of a-z, 0-9 and -, beginning with a letter, not ending in -)",
  ],
  ["ipCidrRange", "10.0.0.0", "be an IPv4 range such as 10.0.0.0/8"],
])("%s against the rules", (property, value, must) => {
  expect(() => network({ [property]: value })).toThrow(new Error(`'${property}' must ${must}, got "${value}"`));
});

test.each(["project", "region", "name", "ipCidrRange"])("%s may be a variable", (property) => {
  const { text } = synthesized(
    (stack) => new RunnerNetwork(stack, "Network", { ...props, [property]: variable(stack).stringValue }),
  );
  expect(text).toContain("${var.tuned}");
});

test("two in one project do not collide", () => {
  const names = uniqueNames(
    synthesized((stack) => {
      new RunnerNetwork(stack, "One", props);
      new RunnerNetwork(stack, "Two", props);
    }),
  );
  expect(names).toHaveLength(8);
  expect(new Set(names).size).toBe(names.length);
});
