/** Unit and snapshot tests: Node only. What runs other programs is in jest.contract.config.js. */
module.exports = {
  testEnvironment: "node",
  testMatch: ["<rootDir>/__tests__/*.test.ts"],
  transform: { "\\.ts$": ["ts-jest", { diagnostics: false }] }, // `npm run typecheck` does that, once
};
