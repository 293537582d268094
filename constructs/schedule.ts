import { Cron } from "croner";
import { Token } from "cdktf";

/** Throws unless it is a period of GitLab Runner: cron with seven fields, from seconds to years. */
export function checkPeriod(property: string, period: string): void {
  if (Token.isUnresolved(period)) {
    return;
  }
  try {
    new Cron(period, { paused: true, mode: "7-part" });
  } catch (error) {
    const reason = (error as Error).message.replace(/^CronPattern: /, "");
    throw new Error(
      `'${property}' must be a period of seven fields (second minute hour day-of-month month day-of-week year) such as ` +
        `"* * 9-17 * * mon-fri *", got ${JSON.stringify(period)}: ${reason}`,
      { cause: error },
    );
  }
}

/** Throws unless GitLab Runner, a Go program, finds the time zone. */
export function checkTimezone(property: string, timezone: string | undefined): void {
  if (timezone === undefined || Token.isUnresolved(timezone) || timezone === "Local") {
    return;
  }
  if (!isKnown(timezone)) {
    throw new Error(
      `'${property}' must be an IANA time zone such as Asia/Jakarta, UTC or Local, got ${JSON.stringify(timezone)}; see \`timedatectl list-timezones\``,
    );
  }
}

function isKnown(timezone: string): boolean {
  // Node takes any letter case and offsets such as +07:00; Go looks for a file of that very name.
  if (!/^[A-Z][A-Za-z0-9+_-]*(\/[A-Z][A-Za-z0-9+_-]*)*$/.test(timezone)) {
    return false;
  }
  try {
    const { timeZone } = new Intl.DateTimeFormat("en", { timeZone: timezone }).resolvedOptions();
    return timeZone === timezone || timeZone.toLowerCase() !== timezone.toLowerCase();
  } catch {
    return false;
  }
}
