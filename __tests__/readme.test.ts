import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Testing } from "cdktf";
import * as ts from "typescript";
import { GitlabRunnerStack } from "../main";

const root = join(__dirname, "..");
const readme = readFileSync(join(root, "README.md"), "utf8").split("\n");

/** A row of one of the README's tables: `| name | default | meaning |`. */
function row(name: string): string[] | undefined {
  const line = readme.find((text) => text.startsWith(`| \`${name}\` |`));
  return line?.split(" | ").map((cell) => cell.replace(/^\| | \|$/g, ""));
}

interface Synthesized {
  readonly variable: { readonly [name: string]: { readonly description: string; readonly default?: unknown } };
  readonly output: { readonly [name: string]: { readonly description: string } };
}

const stack = JSON.parse(Testing.synth(new GitlabRunnerStack(Testing.app(), "gitlab-runner"))) as Synthesized;

test.each(Object.entries(stack.variable))("the variable %s is in the README with its default", (name, variable) => {
  const value = typeof variable.default === "string" ? variable.default : JSON.stringify(variable.default);

  expect(row(name)).toEqual([
    `\`${name}\``,
    "default" in variable ? `\`${value}\`` : "**required**",
    variable.description,
  ]);
});

test.each(Object.entries(stack.output))("the output %s is in the README", (name, { description }) => {
  expect(row(name)).toEqual([`\`${name}\``, description]);
});

interface Property {
  readonly interface: string;
  readonly name: string;
  readonly default: string | undefined;
  readonly meaning: string;
}

/** The properties of the public constructs, as their docstrings say. */
function properties(): Property[] {
  const files = readdirSync(join(root, "constructs")).map((file) => join(root, "constructs", file));
  return files.flatMap((file) => {
    const source = ts.createSourceFile(file, readFileSync(file, "utf8"), ts.ScriptTarget.Latest, true);
    const interfaces = source.statements
      .filter(ts.isInterfaceDeclaration)
      .filter(({ name }) => name.text.endsWith("Props"));
    return interfaces.flatMap(({ name, members }) =>
      members.filter(ts.isPropertySignature).map((member) => ({
        interface: name.text,
        name: member.name.getText(source),
        default:
          member.questionToken &&
          oneLine(ts.getJSDocTags(member).find((tag) => tag.tagName.text === "default")?.comment),
        meaning: oneLine(ts.getJSDocCommentsAndTags(member).find(ts.isJSDoc)?.comment),
      })),
    );
  });
}

function oneLine(comment: ts.JSDoc["comment"]): string {
  return (ts.getTextOfJSDocComment(comment) ?? "").replace(/\n/g, " ").replace(/^- /, "");
}

test.each(properties())("the property $interface.$name is in the README as its docstring says", (property) => {
  const expected = `| \`${property.name}\` | ${property.default ?? "**required**"} | ${property.meaning} |`;

  expect(property.meaning).not.toBe("");
  expect(property.default).not.toBe("");
  expect(readme).toContain(expected);
});
