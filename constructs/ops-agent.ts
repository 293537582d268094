import { ProjectIamMember } from "@cdktf/provider-google/lib/project-iam-member";
import { Fn, Token } from "cdktf";
import { Construct } from "constructs";
import { AptRepository, repositorySettings } from "./package-sources";
import { Flag } from "./runner-config";
import { OPS_AGENT_PACKAGES } from "./versions";

/**
 * Google's Ops Agent: it ships a host's journal and metrics to Google Cloud. What it ships is in `ops-agent.yaml` of each kind
 * of host. https://cloud.google.com/stackdriver/docs/solutions/agents/ops-agent
 */

/** What a host's settings.json says of it. */
export function opsAgentSettings(enabled: Flag, repository: AptRepository): object {
  const source = repositorySettings("opsAgentRepository", repository, OPS_AGENT_PACKAGES);
  return enabled === false ? { enabled } : { enabled, ...source };
}

/** The rights to ship logs and metrics. */
export function opsAgentGrants(host: Construct, enabled: Flag, project: string, member: string): ProjectIamMember[] {
  if (enabled === false) {
    return [];
  }
  return [
    ["WriteLogs", "roles/logging.logWriter"],
    ["WriteMetrics", "roles/monitoring.metricWriter"],
  ].map(([id, role]) => new ProjectIamMember(host, id, { count: countIf(enabled), project, role, member }));
}

/** `count` of what is there only if the flag is set. A literal needs none: with `false` there is no such resource at all. */
export function countIf(flag: Flag): number | undefined {
  return Token.isUnresolved(flag) ? Token.asNumber(Fn.conditional(flag, 1, 0)) : undefined;
}
