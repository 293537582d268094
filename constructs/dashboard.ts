import { CacheHost } from "./cache-host";
import { disksOf, PrometheusMetric, REGISTRY_METRICS, RUNNER_METRICS, scrapedOn } from "./prometheus-metrics";
import { json, terraformString } from "./rendering";
import { RunnerHost } from "./runner-host";

/** The dashboard as Google's JSON. https://cloud.google.com/monitoring/api/ref_v3/rest/v1/projects.dashboards */
export function dashboardJson(title: string, runnerHost: RunnerHost, cacheHost: CacheHost | undefined): string {
  const widgets = [...runnerCharts(runnerHost), ...(cacheHost === undefined ? [] : cacheCharts(cacheHost))];
  return terraformString(json({ displayName: title, gridLayout: { columns: "2", widgets } }));
}

function runnerCharts(host: RunnerHost): object[] {
  const on = scrapedOn(host);
  const { concurrent, jobs, jobQueueDuration, apiRequests, machineStates, machineActions, machineCreationDuration } =
    RUNNER_METRICS;
  return [
    chart("Machines by state", "1", [stacked(`sum by (state) (${machineStates.name}${on})`)]),
    chart("Jobs by state", "1", [
      stacked(`sum by (state) (${jobs.name}${on})`),
      line(`max(${concurrent.name}${on})`, "concurrent"),
    ]),
    chart("Queue time of jobs", "s", quantiles(jobQueueDuration, on)),
    chart("Creation time of machines", "s", quantiles(machineCreationDuration, on)),
    chart("Machines by action, in 15 minutes", "1", [
      line(`sum by (action) (increase(${machineActions.name}${on}[15m]))`),
    ]),
    chart("Answers of GitLab by status, a second", "1", [line(`sum by (status) (rate(${apiRequests.name}${on}[5m]))`)]),
  ];
}

function cacheCharts(host: CacheHost): object[] {
  const { pulledBytes, pushedBytes } = REGISTRY_METRICS;
  const bytes = ({ name }: PrometheusMetric, legend: string) =>
    line(`sum(rate(${name}${scrapedOn(host)}[5m]))`, legend);
  return [
    chart("Cache host: fill level of its disks", "%", [line(disksOf(host))]),
    chart("Registry mirror: bytes a second", "By/s", [
      bytes(pulledBytes, "from the registry"),
      bytes(pushedBytes, "to Docker"),
    ]),
  ];
}

interface DataSet {
  readonly plotType: "LINE" | "STACKED_AREA";
  readonly query: string;
  readonly legendTemplate?: string;
}

const line = (query: string, legendTemplate?: string): DataSet => ({ plotType: "LINE", query, legendTemplate });
const stacked = (query: string): DataSet => ({ plotType: "STACKED_AREA", query });
const quantiles = ({ name }: PrometheusMetric, on: string) =>
  [0.5, 0.95].map((quantile) =>
    line(`histogram_quantile(${quantile}, sum by (le) (rate(${name}_bucket${on}[30m])))`, `${quantile * 100} %`),
  );

function chart(title: string, unitOverride: string, dataSets: DataSet[]): object {
  return {
    title,
    xyChart: {
      dataSets: dataSets.map(({ query, ...dataSet }) => ({
        ...dataSet,
        targetAxis: "Y1",
        timeSeriesQuery: { prometheusQuery: query, unitOverride },
      })),
      yAxis: { scale: "LINEAR" },
    },
  };
}
