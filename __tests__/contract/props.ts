import { join } from "node:path";
import * as ts from "typescript";
import { project } from "./programs";

const LIBRARY = join(project, "constructs");

/**
 * Every place in the constructs' properties that takes a string, as a path that begins with the construct: `[]` is an item of
 * a list, `{}` a value of a map, whose keys are strings too.
 */
export function stringProperties(): string[] {
  const index = join(LIBRARY, "index.ts");
  const program = ts.createProgram([index], { strict: true, skipLibCheck: true, types: [] });
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(index)!;

  const paths = (type: ts.Type, path: string): string[] => {
    const members = type.isUnion() ? type.types : [type];
    if (members.some(({ flags }) => flags & (ts.TypeFlags.StringLike | ts.TypeFlags.Unknown))) {
      return [path];
    }
    return members.flatMap((member) => {
      if (checker.isArrayType(member)) {
        return paths(checker.getTypeArguments(member as ts.TypeReference)[0], `${path}[]`);
      }
      const properties = member.getProperties();
      if (!isData(member, properties)) {
        return [];
      }
      const values = member.getStringIndexType();
      if (values !== undefined) {
        const found = paths(values, `${path}{}`);
        return found.length > 0 ? found : [`${path}{}`];
      }
      return properties.flatMap((property) =>
        paths(checker.getNonNullableType(checker.getTypeOfSymbol(property)), `${path}.${property.name}`),
      );
    });
  };

  return checker
    .getExportsOfModule(checker.getSymbolAtLocation(source)!)
    .filter(({ name }) => /Props$/.test(name) && name !== "HostVmProps") // which CacheHost and RunnerHost have
    .flatMap((symbol) => {
      const aliased = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
      return paths(checker.getDeclaredTypeOfSymbol(aliased), aliased.name.replace(/Props$/, ""));
    });
}

/** An interface of this library without methods: neither a construct nor something of cdktf. */
function isData(type: ts.Type, properties: ts.Symbol[]): boolean {
  const files = type.symbol?.declarations?.map((declaration) => declaration.getSourceFile().fileName) ?? [];
  return (
    files.some((file) => file.startsWith(LIBRARY)) &&
    !type.isClass() &&
    !properties.some(({ flags }) => flags & ts.SymbolFlags.Method)
  );
}
