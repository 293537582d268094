/** Each is a value of its own, with the property's name in it, so that two properties that were swapped are seen. */
export const HOSTILE: { readonly [what: string]: (name: string) => string } = {
  "a double quote": (name) => `"${name}" "`,
  "single quotes": (name) => `'${name}'''`,
  backslashes: (name) => `\\${name}\\n \\\\ \\" \\u0041 \\`,
  "line breaks": (name) => `\n${name}\n  two\n\n---\n...\nthree: four\n`,
  "carriage returns": (name) => `\r\n${name}\r`,
  "a tab": (name) => `\t${name}\t`,
  "shell variables": (name) => `$HOME \${a} $(id) \`id\` ${name}$`,
  "Terraform interpolation": (name) => `\${${name}} $\${b} $$\${c} \${ "\${" \${var.project}`,
  "Terraform directives": (name) => `%{${name}} %%{d} %{ if true }%{ endif }%`,
  braces: (name) => `{{${name}}} {{{x}}} {{json x}} {x`,
  dollars: (name) => `$$${name}$$$ $`,
  "YAML and TOML syntax": (name) => `# ${name}: - & * ! | > % @ [a] {b} ~ = """ '''`,
  "spaces around it": (name) => `  ${name}  `,
  "formats of printf": (name) => `%q %s %d %% ${name}`,
  "what is not ASCII": (name) => `é ß 日本語 😀 ${name}`,
  "characters that look like line breaks or like nothing": (name) => `\u2028\u2029\ufeff\u00a0\u200b${name}`,
  // Without digits: cdktf looks for numbers in a way that takes minutes for long rows of them.
  "10 kB": (name) => `${name} ${"lorem ipsum ".repeat(850)}`,
  "a number": () => "010",
  "a truth value": () => "yes",
  null: () => "null",
  nothing: () => "",
};

/** Terraform's jsonencode writes them as they are, and then they are neither TOML nor YAML: as literals only. */
export const HOSTILE_LITERALS: typeof HOSTILE = {
  "control characters": (name) => `\u0001\u001b\u007f\u0085\u009f${name}`,
};
