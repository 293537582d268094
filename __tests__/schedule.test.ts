import { checkPeriod, checkTimezone } from "../constructs/schedule";
import { resolved, variable } from "./synthesized";

describe("a period", () => {
  test.each([
    "* * 9-17 * * mon-fri *",
    "* * * * * * *",
    "0 */15 8,12 1 jan-mar sun 2027",
    "* * 0-6,19-23 * * MON-FRI *",
    "* 30-59 17 * * 1-5 *",
  ])("may be %j", (period) => checkPeriod("periods", period));

  test.each([
    ["* * 9-17 * mon-fri", "five fields, as cron has them", "has 5 parts"],
    ["* * 9-17 * * mon-fri", "six fields", "has 6 parts"],
    ["* * 9-17 * * mon-fri * *", "eight fields", "seven"],
    ["* * 25 * * * *", "an hour that there is not", "25"],
    ["* 60 * * * * *", "a minute that there is not", "60"],
    ["* * 9-17 * * mo-fr *", "a day's name that there is not", "mo"],
    ["* * 17-9 * * * *", "a range that ends before it begins", "17-9"],
    ["", "nothing", "seven"],
    ["nights", "a word", "nights"],
  ])("must not be %j: %s", (period, _, reason) => {
    expect(() => checkPeriod("autoscaling[0].periods", period)).toThrow(
      "'autoscaling[0].periods' must be a period of seven fields (second minute hour day-of-month month day-of-week year) " +
        `such as "* * 9-17 * * mon-fri *", got ${JSON.stringify(period)}: `,
    );
    expect(() => checkPeriod("autoscaling[0].periods", period)).toThrow(reason);
  });

  test("is not judged when it is a variable", () => {
    resolved((stack) => {
      checkPeriod("periods", variable(stack).stringValue);
      return "";
    });
  });
});

describe("a time zone", () => {
  test.each([
    "UTC",
    "Local",
    "Asia/Jakarta",
    "America/Argentina/Buenos_Aires",
    "Etc/GMT+7",
    "US/Pacific",
    "CET",
    undefined,
  ])("may be %s", (timezone) => checkTimezone("timezone", timezone));

  test.each([
    ["Mars/Olympus", "a place that there is not"],
    ["+07:00", "an offset"],
    ["asia/jakarta", "small letters, for which Go finds no file"],
    ["Asia/jakarta", "one small letter, for which Go finds no file"],
    ["ASIA/JAKARTA", "capitals, for which Go finds no file"],
    ["PDT", "an abbreviation for part of a year"],
    ["", "nothing"],
  ])("must not be %j: %s", (timezone) => {
    expect(() => checkTimezone("autoscaling[1].timezone", timezone)).toThrow(
      new Error(
        `'autoscaling[1].timezone' must be an IANA time zone such as Asia/Jakarta, UTC or Local, got ${JSON.stringify(timezone)}; see \`timedatectl list-timezones\``,
      ),
    );
  });

  test("is not judged when it is a variable", () => {
    resolved((stack) => {
      checkTimezone("timezone", variable(stack).stringValue);
      return "";
    });
  });
});
