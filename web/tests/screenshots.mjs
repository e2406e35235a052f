// node screenshots.mjs FOLDER: the page on a desktop and on a phone, light and dark.

import { join } from "node:path";
import { launch, open, serve } from "./browser.mjs";

const folder = process.argv[2];
const server = await serve();
const browser = await launch({ webgpu: true });

async function show(name, options, work) {
  const { page } = await open(browser, server.url, { deviceScaleFactor: 1, ...options });
  await work(page);
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
  await page.context().close();
}

const write = async (page) => {
  await page.getByLabel("Bytes to write").fill("400");
  await page.getByRole("button", { name: "Write" }).click();
  await page.locator(".facts", { hasText: /^412 tokens/ }).waitFor({ timeout: 300_000 });
};

await show("web-desktop", { viewport: { width: 1100, height: 900 }, colorScheme: "light" }, async (page) => {
  await write(page);
  await page.getByRole("button", { name: "Measure" }).click();
  await page.locator("#speed .status", { hasText: "Done." }).waitFor({ timeout: 600_000 });
  await page.locator("#check").getByRole("button", { name: "Check" }).click();
  await page.locator("#check .status", { hasText: /Case \d\d+|All/ }).waitFor({ timeout: 600_000 });
});
await show(
  "web-phone",
  { viewport: { width: 390, height: 844 }, colorScheme: "dark", hasTouch: true, isMobile: true },
  write,
);
await browser.close();
await server.close();
