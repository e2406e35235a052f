// The page in Chromium, with WebGPU on SwiftShader and without WebGPU.
//
// CASE filters the cases of the check on SwiftShader; without it all of them run.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { launch, open, serve } from "./browser.mjs";

const PROMPT = "Captain Wentworth ";
const minutes = (count) => ({ timeout: count * 60_000 });

let server;
before(async () => {
  server = await serve();
});
after(() => server.close());

// The program's text for the prompt, from the CPU engine.
function nativeText(tokens, seed) {
  const args = ["--adapter", "cpu", "--tokens", tokens, "--seed", seed, PROMPT].map(String);
  return execFileSync(process.env.GENERATE, args, { encoding: "utf8" });
}

// Writes after the prompt; returns the card of the conversation, which has stopped.
async function write(page, { tokens, seed }) {
  await page.getByLabel("Prompt").fill(PROMPT);
  await page.getByLabel("Bytes to write").fill(String(tokens));
  await page.getByLabel("Seed").fill(String(seed));
  await page.getByRole("button", { name: "Write" }).click();
  const card = page.locator(".conversation").first();
  await has(card, PROMPT.length + tokens);
  return card;
}

// Waits until the conversation has so many tokens.
const has = (card, tokens) =>
  card.locator(".facts", { hasText: new RegExp(`^${tokens} tokens`) }).waitFor({ timeout: 120_000 });

const textOf = (card) => card.locator("pre").innerText();

for (const kind of ["gpu", "cpu"]) {
  describe(kind === "gpu" ? "with WebGPU on SwiftShader" : "without WebGPU", () => {
    let browser;
    before(async () => {
      browser = await launch({ webgpu: kind === "gpu" });
    });
    after(() => browser.close());

    test("it says what it runs on", minutes(1), async () => {
      const { page, errors } = await open(browser, server.url);
      const chosen = await page.locator("#computer").evaluate((it) => it.selectedOptions[0].text);
      const note = await page.locator("#computer-note").innerText();
      if (kind === "gpu") {
        assert.match(chosen, /^GPU: google swiftshader/);
      } else {
        assert.match(chosen, /CPU engine/);
        assert.match(note, /No GPU: .*WebGPU.*The CPU engine computes instead/);
      }
      assert.deepEqual(errors, []);
    });

    test("it writes what the native program writes", minutes(4), async () => {
      const { page, errors } = await open(browser, server.url);
      const card = await write(page, { tokens: 120, seed: 11 });
      const native = nativeText(120, 11);
      const text = await textOf(card);
      assert.ok(text.startsWith(PROMPT) && text.length >= 120, text);
      assert.ok(native.startsWith(text.trimEnd()), `${native}\n\nbut the page: ${text}`);
      assert.match(await page.locator(".memory .ours output").innerText(), /^33\.3 kB, always$/);
      assert.match(
        await page.locator(".memory .theirs output").innerText(),
        /^282\.6 kB after 138 tokens$/,
      );
      assert.deepEqual(errors, []);
    });

    test("a conversation is forked, paused and resumed", minutes(4), async () => {
      const { page, errors } = await open(browser, server.url);
      const card = await write(page, { tokens: 30, seed: 5 });
      await card.getByRole("button", { name: "Pause" }).click();
      await card.getByText("paused: a snapshot of 33").waitFor();
      const begin = await textOf(card);
      const link = card.getByRole("link", { name: "Save" });
      const download = page.waitForEvent("download");
      await link.click();
      const file = await (await download).path();
      assert.ok(readFileSync(file).length > 33_000);

      await card.getByRole("button", { name: "Resume" }).click();
      await has(card, PROMPT.length + 60);
      const whole = await textOf(card);
      assert.ok(nativeText(60, 5).startsWith(whole.trimEnd()));

      // The file goes on as the conversation did.
      await page.getByLabel("Resume from a file").setInputFiles(file);
      const resumed = page.locator(".conversation", { hasText: "Conversation 2" });
      await has(resumed, PROMPT.length + 60);
      assert.equal(await textOf(resumed), whole);

      await card.getByRole("button", { name: "Fork" }).click();
      const fork = page.locator(".conversation", { hasText: "a fork of" });
      await has(fork, PROMPT.length + 90);
      assert.ok((await textOf(fork)).startsWith(whole));
      assert.ok(whole.startsWith(begin));

      await page.getByLabel("Resume from a file").setInputFiles({
        name: "other.bin",
        mimeType: "application/octet-stream",
        buffer: Buffer.from("no conversation"),
      });
      await page.locator("#write .status.bad").waitFor();
      assert.deepEqual(errors, []);
    });

    test("the plot appears and has both lines", minutes(8), async () => {
      const { page, errors } = await open(browser, server.url);
      await page.locator("#speed").getByRole("button", { name: "Measure" }).click();
      const status = page.locator("#speed .status");
      await status.filter({ hasText: /Done\.|Try again/ }).waitFor({ timeout: 450_000 });
      assert.match(await status.innerText(), /Done\./);
      assert.equal(await page.locator("#plot polyline").count(), 2);
      assert.ok((await page.locator("#plot circle.linear").count()) >= 4);
      assert.ok((await page.locator("#plot circle.softmax").count()) >= 2);
      const rows = await page.locator("#times tbody tr").allInnerTexts();
      console.log(rows.map((row) => `    ${row}`).join("\n"));
      assert.deepEqual(errors, []);
    });

    test("the check passes, and offers its report", minutes(40), async () => {
      const { page, errors } = await open(browser, `${server.url}?case=${process.env.CASE ?? ""}`);
      await page.locator("#check").getByRole("button", { name: "Check" }).click();
      const status = page.locator("#check .status");
      await status.filter({ hasText: /All|failed|Try again/ }).waitFor({ timeout: 39 * 60_000 });
      const said = await status.innerText();
      assert.match(said, /^All \d+ comparisons passed\.$/, await page.locator("#failures").innerText());
      console.log(`    ${said}`);
      const download = page.waitForEvent("download");
      await page.getByRole("link", { name: "Download the report" }).click();
      const report = JSON.parse(readFileSync(await (await download).path(), "utf8"));
      const [{ backend, rows }] = report.adapters;
      assert.equal(backend, kind === "gpu" ? "webgpu" : "cpu");
      assert.ok(rows.length > 0 && rows.every((row) => row.passed));
      assert.match(said, new RegExp(`All ${rows.length} `));
      assert.deepEqual(errors, []);
    });

    test("the page answers while it computes", minutes(2), async () => {
      const { page } = await open(browser, server.url);
      await page.locator("#check").getByRole("button", { name: "Check" }).click();
      await page.locator("#check .status", { hasText: "Case" }).waitFor({ timeout: 60_000 });
      // The longest time between two of the page's timers.
      const longest = await page.evaluate(async () => {
        let longest = 0;
        let last = performance.now();
        while (performance.now() - last < 1000 && longest < 1000) {
          const before = performance.now();
          await new Promise((resolve) => setTimeout(resolve, 0));
          longest = Math.max(longest, performance.now() - before);
          if (performance.now() - last > 900) break;
        }
        return longest;
      });
      assert.ok(longest < 250, `${longest} ms`);
      await page.getByRole("button", { name: "Stop" }).click();
      await page.locator("#check .status", { hasText: "Stopped." }).waitFor();
    });
  });
}

describe("a device that is lost", () => {
  test("is a message and a button that begins again", minutes(4), async () => {
    const browser = await launch({ webgpu: true });
    const { page, errors } = await open(browser, server.url);
    await write(page, { tokens: 20, seed: 5 });
    await page.evaluate(async () => (await globalThis.panels.write.opened).call("lose"));
    const status = page.locator("#write .status");
    await status.filter({ hasText: "The GPU was lost" }).waitFor();
    await status.getByRole("button", { name: "Try again" }).click();
    const card = page.locator(".conversation").first();
    await has(card, PROMPT.length + 20);
    assert.ok(nativeText(20, 5).startsWith((await textOf(card)).trimEnd()));
    assert.deepEqual(errors, []);
    await browser.close();
  });
});
