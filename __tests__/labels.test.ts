import { Token } from "cdktf";
import { checkLabels, isTokenMap, mergeLabels } from "../constructs/labels";
import { resolved, variable } from "./synthesized";

describe("checkLabels", () => {
  test("takes none, and what Google takes", () => {
    checkLabels(undefined);
    checkLabels({ team: "ci", "cost-center_1": "4711", empty: "" });
  });

  test.each(["Team", "1team", "te am", "team.x", "", "t".repeat(64)])("a bad label key: %j", (key) => {
    expect(() => checkLabels({ [key]: "ci" })).toThrow(
      new Error(
        `'labels' must be a label key (1 to 63 of a-z, 0-9, _ and -, beginning with a letter), got ${JSON.stringify(key)}`,
      ),
    );
  });

  test.each(["CI", "a b", "a.b", "v".repeat(64)])("a bad label value: %j", (value) => {
    expect(() => checkLabels({ team: value })).toThrow(
      new Error(`'labels.team' must be a label value (up to 63 of a-z, 0-9, _ and -), got ${JSON.stringify(value)}`),
    );
  });

  test("does not judge a variable, be it a value or the map", () => {
    resolved((stack) => {
      checkLabels({ team: variable(stack).stringValue });
      checkLabels(Token.asStringMap(variable(stack).value));
      return "";
    });
  });
});

describe("mergeLabels", () => {
  test("adds the owner's labels, which win", () => {
    expect(mergeLabels(undefined, { owner: "host" })).toEqual({ owner: "host" });
    expect(mergeLabels({ team: "ci", owner: "me" }, { owner: "host" })).toEqual({ team: "ci", owner: "host" });
  });

  test("of a variable is merged by Terraform, the owner's last", () => {
    const merged = resolved((stack) => mergeLabels(Token.asStringMap(variable(stack).value), { owner: "host" }));
    expect(merged).toBe('${merge(var.tuned, {"owner" = "host"})}');
  });
});

test("isTokenMap: only the whole map as a variable hides its keys", () => {
  resolved((stack) => {
    expect(isTokenMap(Token.asStringMap(variable(stack).value))).toBe(true);
    expect(isTokenMap({ team: variable(stack).stringValue })).toBe(false);
    return "";
  });
});
