import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { REGISTRY_METRICS, RUNNER_METRICS } from "../constructs/prometheus-metrics";

interface Configuration {
  readonly metrics: {
    readonly receivers: {
      readonly [receiver: string]: {
        readonly config: {
          readonly scrape_configs: {
            readonly static_configs: { readonly targets: string[] }[];
            readonly relabel_configs: object[];
            readonly metric_relabel_configs: { readonly regex: string }[];
          }[];
        };
      };
    };
    readonly service: { readonly pipelines: { readonly [pipeline: string]: { readonly receivers: string[] } } };
  };
}

// The addresses are those of runner-host.ts and cache-host.ts.
describe.each([
  ["runner-host", "127.0.0.1:9252", RUNNER_METRICS],
  ["cache-host", "127.0.0.1:9253", REGISTRY_METRICS],
])("on a %s", (host, target, metrics) => {
  const file = join(__dirname, "../cloud-init", host, "ops-agent.yaml");
  const { receivers, service } = (parse(readFileSync(file, "utf8")) as Configuration).metrics;
  const [receiver] = Object.keys(receivers);
  const [scrape] = receivers[receiver].config.scrape_configs;

  test("metrics are scraped where they are served, and shipped", () => {
    expect(scrape.static_configs).toEqual([{ targets: [target] }]);
    expect(Object.values(service.pipelines)).toEqual([{ receivers: [receiver] }]);
  });

  test("those that are read stay, with the host's name", () => {
    expect(scrape.relabel_configs).toEqual([
      { source_labels: ["__meta_gce_instance_name"], target_label: "instance_name" },
    ]);
    const [{ regex }] = scrape.metric_relabel_configs;
    for (const { name } of Object.values(metrics)) {
      expect(name).toMatch(new RegExp(`^(?:${regex})$`));
    }
    expect("go_gc_duration_seconds").not.toMatch(new RegExp(`^(?:${regex})$`));
  });
});
