// Signs in at the test provider with a real headless Chromium: `node sign-in.mjs LOGIN URL`. It fills every form of the
// provider until the address is the callback of a command line, or the device flow is done; then it writes the text of
// the last page, and ends.

import { chromium } from 'playwright-core';

const [login, url] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
});
try {
  const page = await browser.newPage();
  await page.goto(url);
  // Some forms submit themselves: each is sent once, and a page without a form is the end.
  const sent = new Set();
  for (const start = Date.now(); Date.now() - start < 60_000; await page.waitForTimeout(50)) {
    try {
      await page.waitForLoadState('load');
      if (new URL(page.url()).pathname === '/callback') break;
      const form = page.locator('form').first();
      if ((await form.count()) === 0) break;
      const shown = page.url() + (await form.innerHTML());
      if (sent.has(shown)) continue;
      sent.add(shown);
      if (await page.locator('input[name=login]').count()) {
        await page.fill('input[name=login]', login);
        await page.fill('input[name=password]', 'any');
      }
      await page.locator('button[type=submit]').first().click({ timeout: 2_000 });
    } catch (error) {
      // The page went away meanwhile.
      if (!/navigat|closed|detached|destroyed|Timeout/.test(String(error))) throw error;
    }
  }
  console.log((await page.locator('body').innerText()).trim());
} finally {
  await browser.close();
}
