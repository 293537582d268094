import { TerraformStack, Testing } from "cdktf";
import { Construct } from "constructs";
import { defaultName, idSuffix, serviceAccountId } from "../constructs/names";
import { resourceName } from "../constructs/rules";
import { resolved, variable } from "./synthesized";

const construct = (...path: string[]) =>
  path.reduce<Construct>((scope, id) => new Construct(scope, id), new TerraformStack(Testing.app(), "ci"));

describe("defaultName", () => {
  test("is the construct's path, in what Google takes for a name", () => {
    expect(defaultName(construct("Team_A", "Runner Host"))).toBe("ci-team-a-runner-host");
    expect(defaultName(construct("Host-"))).toBe("ci-host");
  });

  test("is at most 40 long, which leaves room for suffixes, and still differs by the end of the path", () => {
    const names = ["One", "Two"].map((id) => defaultName(construct("AVeryLongNameOfATeam", "AndOfItsGroup", id)));
    for (const name of names) {
      expect(name.length).toBeLessThanOrEqual(40);
      expect(resourceName.holds(name)).toBe(true);
    }
    expect(names[0]).not.toBe(names[1]);
    expect(names[0]).toMatch(/^ci-averylongnameofateam-andofitsg-[0-9a-f]{6}$/);
  });

  test("is the same on every run", () => {
    expect(defaultName(construct("AVeryLongNameOfATeam", "AndOfItsGroup", "One"))).toBe(
      defaultName(construct("AVeryLongNameOfATeam", "AndOfItsGroup", "One")),
    );
  });
});

describe("serviceAccountId", () => {
  test("is the name where that fits", () => {
    expect(serviceAccountId("runner")).toBe("runner");
    expect(serviceAccountId("r".repeat(30))).toBe("r".repeat(30));
  });

  test("of a name that is too long or too short has 6 to 30 characters, and differs by the whole name", () => {
    const long = "a".repeat(31);
    for (const name of [long, "ci", `${"a".repeat(22)}---------b`]) {
      expect(serviceAccountId(name)).toMatch(/^[a-z][a-z0-9-]{4,28}[a-z0-9]$/);
      expect(serviceAccountId(name)).not.toContain("--");
    }
    expect(serviceAccountId(`${long}b`)).not.toBe(serviceAccountId(`${long}c`));
  });

  test("of a variable is what the variable is", () => {
    expect(resolved((stack) => serviceAccountId(variable(stack).stringValue))).toBe("${var.tuned}");
  });
});

test("idSuffix tells subjects apart", () => {
  expect(idSuffix("a/b")).toMatch(/^[0-9a-f]{6}$/);
  expect(idSuffix("a/b")).toBe(idSuffix("a/b"));
  expect(idSuffix("a/b")).not.toBe(idSuffix("a/c"));
});
