import { relativePath } from "../constructs/self-link";
import { resolved, variable } from "./synthesized";

test.each([
  ["https://www.googleapis.com/compute/v1/projects/p/global/networks/n", "projects/p/global/networks/n"],
  ["projects/p/global/networks/n", "projects/p/global/networks/n"],
])("relativePath of %s", (selfLink, path) => expect(relativePath(selfLink)).toBe(path));

test("relativePath of a Terraform value is its path, too", () => {
  expect(resolved((stack) => relativePath(variable(stack).stringValue))).toBe(
    '${trimprefix(var.tuned, "https://www.googleapis.com/compute/v1/")}',
  );
});
