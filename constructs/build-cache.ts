import { CacheConfig } from "./runner-config";
import { SecretReference } from "./secret-reference";

/** A place for the runner's build caches. The manager signs URLs with the keys; workers only ever see those URLs. */
export interface BuildCache {
  /** The `[runners.cache]` that uses it. */
  readonly config: CacheConfig;
  /** The secret that the manager has to read for that. */
  readonly credentials: SecretReference;
}
