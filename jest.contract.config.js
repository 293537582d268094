/** Tests that run the real programs (Terraform, cloud-init, gitlab-runner …) on what is synthesized. */
module.exports = {
  ...require("./jest.config.js"),
  testMatch: ["<rootDir>/__tests__/contract/*.test.ts"],
  testTimeout: 300_000,
};
