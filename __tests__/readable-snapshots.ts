import * as versions from "../constructs/versions";

/** Snapshots show structure: a new version or a word in a script changes none. */
const names = new Map<string, string>([
  ...Object.entries(versions.IMAGES).map(([name, image]) => [image, `IMAGES.${name}`] as const),
  [versions.HOST_IMAGE, "HOST_IMAGE"],
  [versions.WORKER_IMAGE, "WORKER_IMAGE"],
]);

const readable = (text: string) =>
  names.get(text) ?? (/^[0-9a-f]{64}$/.test(text) ? "sha256" : text.includes("\n") || text.length > 200 ? "text" : "");

expect.addSnapshotSerializer({
  test: (value) => typeof value === "string" && readable(value) !== "",
  print: (value) => `<${readable(value as string)}>`,
});
