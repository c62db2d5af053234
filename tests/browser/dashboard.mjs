// Drives the dashboard with a real headless Chromium: `node dashboard.mjs`, with the settings as JSON in SETTINGS.
// Every check that fails is a line on standard error, and the exit status is 1. The last line of standard output is a
// summary in JSON.
//
// Settings: origin, root (a credential), logins (people at the provider, or null), pictures (a folder, or null),
// pending (the path of a revocation page that waits, or null).

import { mkdir } from 'node:fs/promises';

import AxeBuilder from '@axe-core/playwright';
import { chromium } from 'playwright-core';

const settings = JSON.parse(process.env.SETTINGS);
const { origin, root, logins, pictures } = settings;
const KEYS = '/dashboard/settings/api-keys';
const WIDTHS = [320, 375, 641, 768, 880, 1024, 1280, 1600];
const LONG = `${'An endless name '.repeat(12)}end`.slice(0, 200);
const NAMES = ['GitHub Actions', 'backend-2026-04', '<script>alert(1)</script>', 'مفتاح الإنتاج', '🔑 rocket 🚀', LONG, 'w'.repeat(200)];

const failures = [];
const counts = { pages: 0, axe: 0, widths: 0, flows: 0, pictures: 0 };
const fail = (text) => { failures.push(text); console.error(`FAILED ${text}`); };
const check = (good, text) => { if (!good) fail(text); };

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

// A browser window in which every error of the console, every failed request and every request elsewhere is a failure.
async function open(options, expected = () => false) {
  const context = await browser.newContext({ baseURL: origin, ...options });
  context.setDefaultTimeout(30_000);
  const page = await context.newPage();
  const label = options?.javaScriptEnabled === false ? 'without script' : 'with script';
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type()) && !expected(message.text())) fail(`${label}: ${page.url()}: console: ${message.text()}`);
  });
  page.on('pageerror', (error) => fail(`${label}: ${page.url()}: ${error}`));
  page.on('request', (request) => {
    // The pages of the provider are its own.
    if (!page.url().startsWith(origin) && page.url() !== 'about:blank') return;
    const url = new URL(request.url());
    if (!['data:', 'blob:'].includes(url.protocol) && url.origin !== origin && !settings.issuer?.startsWith(url.origin)) fail(`${label}: request to ${url.origin}`);
  });
  return page;
}

// What the page holds, once it is there.
async function content(page) {
  for (let n = 0; ; n += 1) {
    try {
      await page.waitForLoadState('load');
      return await page.content();
    } catch (error) {
      if (n === 20) throw error;
      await page.waitForTimeout(200);
    }
  }
}

// A page whose status is not 200 is in the console, too.
const refused = (text) => /status of 4\d\d/.test(text);

async function signIn(page) {
  await page.goto('/dashboard/sign-in');
  await page.fill('#credential', root);
  await page.click('button[type=submit]');
  await page.waitForURL(`**${KEYS}`);
}

async function create(page, name) {
  await page.goto(KEYS);
  await page.click('text=Create API Key');
  await page.fill('#name', name);
  await page.click('button.primary[type=submit]');
  await page.waitForSelector('#secret');
  return page.locator('#secret').innerText();
}

async function inspect(page, name) {
  counts.pages += 1;
  const result = await new AxeBuilder({ page }).analyze();
  counts.axe += 1;
  for (const violation of result.violations) {
    fail(`axe: ${name}: ${violation.id}: ${violation.help}: ${violation.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(' | ')}`);
  }
  const size = page.viewportSize();
  for (const width of WIDTHS) {
    await page.setViewportSize({ width, height: 800 });
    const beyond = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    counts.widths += 1;
    check(beyond <= 0, `${name} is ${beyond} px too wide at ${width} px`);
  }
  await page.setViewportSize(size);
  const dialogs = await page.evaluate(() => document.querySelectorAll('bdi script, a script, td script').length);
  check(dialogs === 0, `${name}: a name became an element`);
}

async function picture(page, name) {
  if (!pictures) return;
  await mkdir(pictures, { recursive: true });
  await page.evaluate(() => { document.activeElement?.blur(); scrollTo(0, 0); });
  for (const scheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
    await page.screenshot({ path: `${pictures}/dashboard-${name}-${scheme}.png`, fullPage: false });
    counts.pictures += 1;
    if (scheme === 'dark') {
      const result = await new AxeBuilder({ page }).withRules(['color-contrast']).analyze();
      for (const violation of result.violations) {
        fail(`axe in the dark: ${name}: ${violation.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(' | ')}`);
      }
    }
  }
  await page.emulateMedia({ colorScheme: 'light' });
}

// Everything by keyboard alone: create a key, then revoke it.
async function byKeyboard() {
  const page = await open({ viewport: { width: 1100, height: 800 } });
  const press = async (...keys) => { for (const key of keys) await page.keyboard.press(key); };
  const reach = async (what) => {
    for (let n = 0; n < 60; n += 1) {
      const found = await page.evaluate((wanted) => {
        const at = document.activeElement;
        return (at?.innerText ?? '').trim() === wanted || at?.id === wanted || `${at?.name}=${at?.value}` === wanted;
      }, what);
      if (found) return;
      await page.keyboard.press('Tab');
    }
    throw new Error(`the keyboard does not reach "${what}" on ${page.url()}`);
  };
  await page.goto('/dashboard/sign-in');
  await reach('credential');
  await page.keyboard.type(root);
  await press('Enter');
  await page.waitForURL(`**${KEYS}`);
  await reach('Create API Key');
  await press('Enter');
  await page.waitForSelector('#name');
  await reach('name');
  await page.keyboard.type('by keyboard');
  await reach('Create');
  await press('Enter');
  await page.waitForSelector('#secret');
  await reach('I have copied it');
  await press('Enter');
  await page.waitForSelector('text=Revoke…');
  await reach('Revoke…');
  await press('Enter');
  await page.waitForSelector('#confirmation');
  await reach('confirmation');
  await page.keyboard.type('by keyboard');
  await reach('Revoke key');
  await press('Enter');
  await page.waitForSelector('text=Dead on');
  await page.waitForSelector('.verdict.certain');
  counts.flows += 1;
  await page.context().close();
}

// The whole life of a key, once with script and once without.
async function lifeOfAKey(javaScriptEnabled) {
  const label = javaScriptEnabled ? 'with script' : 'without script';
  const page = await open({ javaScriptEnabled, viewport: { width: 1100, height: 800 }, permissions: javaScriptEnabled ? ['clipboard-read', 'clipboard-write'] : [] }, refused);
  await signIn(page);
  const secret = await create(page, `life ${label}`);
  check(/^ak_\w{32}$/.test(secret), `${label}: the secret is ${secret.length} characters`);
  check(!page.url().includes(secret), `${label}: the address holds the secret`);
  if (javaScriptEnabled) {
    await page.click('[data-copy=secret]');
    await page.waitForSelector('text=Copied');
    check(await page.evaluate(() => navigator.clipboard.readText()) === secret, 'the copy button copies');
  } else {
    check(!(await page.locator('[data-copy=secret]').isVisible()), 'without script there is no copy button that does nothing');
  }
  const [file] = await Promise.all([page.waitForEvent('download'), page.click('text=Download .env')]);
  check(file.suggestedFilename().endsWith('env'), `${label}: the file is called ${file.suggestedFilename()}`);
  // Leaving and coming back, and loading again, never shows it again.
  await page.click('text=I have copied it');
  await page.waitForSelector('text=Revoke…');
  const keyPage = page.url();
  await page.goBack().catch(() => {});
  check(!(await content(page)).includes(secret), `${label}: going back shows the secret`);
  await page.goto(KEYS);
  const made = await page.locator('td.name a').count();
  // Loading the page after a creation again.
  await create(page, `again ${label}`);
  await page.reload().catch(() => {});
  await content(page);
  check((await page.locator('#secret').count()) === 0, `${label}: loading again shows a secret`);
  await page.goto(KEYS);
  check((await page.locator('td.name a').count()) === made + 1, `${label}: loading again created another key`);
  // The webhook.
  await page.goto(keyPage);
  await page.fill('#url', 'https://hooks.example/x');
  await page.click('button:has-text("Save")');
  await page.waitForSelector('#webhook-secret');
  await page.click('text=I have copied it');
  await page.waitForSelector('text=Rotate signing secret');
  await page.click('text=Remove webhook');
  await page.waitForSelector('text=Webhook changed');
  // A mistake loses nothing.
  await page.goto(`${KEYS}/new`);
  await page.fill('#metadata, #name', 'kept');
  await page.locator('input[name=expiry][value=days]').check();
  await page.fill('input[name=days]', 'soon');
  await page.click('button.primary[type=submit]');
  await page.waitForSelector('#days-problem');
  check(await page.inputValue('#name') === 'kept', `${label}: the name is lost`);
  // The end.
  await page.goto(keyPage);
  await page.click('text=Revoke…');
  await page.fill('#confirmation', 'wrong');
  await page.click('button:has-text("Revoke key")');
  await page.waitForSelector('#confirmation-problem');
  await page.fill('#confirmation', `life ${label}`);
  await page.fill('#reason', 'end of the test');
  await page.click('button:has-text("Revoke key")');
  await page.waitForSelector('text=Dead on 1 of 1 replica after');
  // Several at once.
  await page.goto(`${KEYS}?status=active&q=again`);
  await page.locator('td.pick input').first().check();
  await page.click('text=Revoke selected…');
  await page.locator('input[name=sure]').check();
  await page.click('button:has-text("Revoke")');
  await page.waitForSelector('text=dead on 1 of 1 replica');
  // Activity and its file.
  await page.goto('/dashboard/activity');
  await page.selectOption('#type', 'key.revoked');
  await page.click('button:has-text("Show")');
  await page.waitForSelector('text=end of the test');
  const [csv] = await Promise.all([page.waitForEvent('download'), page.click('text=Download CSV')]);
  check(csv.suggestedFilename() === 'activity.csv', label);
  // Out.
  await page.click('details.menu summary');
  await page.click('text=Sign out');
  await page.waitForSelector('text=You are signed out');
  await page.goto(keyPage);
  check(page.url().includes('/dashboard/sign-in'), `${label}: signed out, a page is still shown`);
  counts.flows += 1;
  await page.context().close();
}

// A person at a real provider.
async function asAPerson(login, javaScriptEnabled) {
  const role = login.split('/')[2];
  const page = await open({ javaScriptEnabled }, (text) => refused(text) || /favicon/.test(text) || !page.url().startsWith(origin));
  await page.goto('/dashboard/overview');
  await page.click('text=Continue with');
  for (let n = 0; n < 20 && !page.url().startsWith(`${origin}/dashboard/overview`); n += 1) {
    if (await page.locator('input[name=login]').count()) {
      await page.fill('input[name=login]', login);
      await page.fill('input[name=password]', 'any');
    }
    if (await page.locator('button[type=submit]').count()) await page.locator('button[type=submit]').first().click();
    await page.waitForLoadState('load');
  }
  if (role === 'member') {
    await page.waitForSelector('text=Members cannot manage API keys');
    if (javaScriptEnabled) await inspect(page, 'a refusal');
  } else {
    await page.waitForSelector('h1:has-text("Overview")');
    check((await page.locator('text=Replicas').count()) === 0, 'a person sees the installation');
    if (javaScriptEnabled) {
      await inspect(page, `overview of an ${role}`);
      await page.goto(KEYS);
      await inspect(page, `list of an ${role}`);
    }
    // What is not theirs to grant is not offered.
    await page.goto(`${KEYS}/new`);
    check((await page.locator('input[name=scope][value=admin]').count()) === (role === 'owner' ? 1 : 0), `${role}: admin`);
  }
  if (await page.locator('#org').count()) {
    await page.goto(KEYS);
    await page.selectOption('#org', 'globex');
    if (!javaScriptEnabled) await page.click('button:has-text("Switch")');
    await page.waitForURL('**org=globex**');
  }
  await page.click('details.menu summary');
  await page.click('text=Sign out');
  await page.waitForSelector('text=You are signed out');
  counts.flows += 1;
  await page.context().close();
}

// Every page, also as it is where its scripts do not arrive. (axe is a script itself: it does not run where script is
// switched off.)
async function everyPage(withScripts) {
  const page = await open({ viewport: { width: 1180, height: 780 } }, (text) => refused(text) || (!withScripts && /ERR_FAILED/.test(text)));
  if (!withScripts) await page.route('**/*.js', (route) => route.abort());
  await page.goto('/dashboard/sign-in');
  await inspect(page, 'sign-in');
  await picture(page, 'sign-in');
  await page.fill('#credential', 'wrong');
  await page.click('button[type=submit]');
  await page.waitForSelector('#problem');
  await inspect(page, 'a failed sign-in');
  await signIn(page);
  if (!pictures) {
    if (withScripts) for (const name of NAMES) await create(page, name);
    // A mark that turns the direction of what follows would let one name pass for another.
    await page.goto(`${KEYS}/new`);
    await page.fill('#name', 'safe \u202Eexe.yek');
    await page.click('button.primary[type=submit]');
    await page.waitForSelector('#name-problem');
    await page.goto(KEYS);
    const shown = await page.locator('td.name a bdi').allInnerTexts();
    for (const name of NAMES) check(shown.some((text) => text.replace(/\s+/g, ' ') === name.replace(/\s+/g, ' ').trim()), `the name ${name.slice(0, 30)} is not shown as it is`);
  }
  await page.goto(KEYS);
  await inspect(page, 'list');
  await picture(page, 'keys');
  const keyPage = await page.locator('td.name a').nth(pictures ? 1 : 0).getAttribute('href');
  await page.goto(`${KEYS}?q=nothing-is-called-this`);
  await inspect(page, 'empty list');
  await page.goto(`${KEYS}/new${pictures ? '?keyspace=norrix' : ''}`);
  await inspect(page, 'new');
  await page.fill('#name', 'Release pipeline');
  if (pictures) {
    await page.fill('#organization', 'acme');
    await page.locator('input[name=expiry][value=days]').check();
  }
  await picture(page, 'create');
  await page.click('button.primary[type=submit]');
  await page.waitForSelector('#secret');
  await inspect(page, 'secret');
  if (pictures) await page.evaluate(() => { for (const code of document.querySelectorAll('.secret code')) code.textContent = code.textContent.replace(/^(nrx_[\w-]{8})[\w-]+/, '$1••••••••••••••••••••••••••••'); });
  await picture(page, 'secret');
  await page.goto(keyPage);
  await inspect(page, 'one key');
  await picture(page, 'key');
  await page.click('text=Revoke…');
  await page.waitForSelector('#confirmation');
  await inspect(page, 'revoke');
  await picture(page, 'revoke');
  if (pictures) {
    await page.goto(`${KEYS}?q=Old`);
    await page.locator('td.name a').first().click();
    await page.click('text=Revoke…');
    await page.fill('#confirmation', 'Old laptop');
    await page.fill('#reason', 'The laptop was lost');
    await page.click('button:has-text("Revoke key")');
    await page.waitForSelector('.verdict.certain');
    await picture(page, 'revoked');
  }
  await page.goto(KEYS);
  await page.locator('td.pick input').first().check();
  await page.click('text=Revoke selected…');
  await page.waitForSelector('input[name=sure]');
  await inspect(page, 'preview of several');
  for (const [name, path] of [['activity', '/dashboard/activity'], ['overview', '/dashboard/overview'], ['sessions', '/dashboard/settings/sessions']]) {
    await page.goto(path);
    await inspect(page, name);
    await picture(page, name);
  }
  await page.goto('/dashboard/activity?since=nonsense');
  await inspect(page, 'an error');
  await page.goto('/dashboard/nowhere');
  await inspect(page, 'not found');
  await page.context().close();
}

// A page that waits for a replica says so, and updates by itself once the replica is back.
async function pending() {
  for (const javaScriptEnabled of [true, false]) {
    const page = await open({ javaScriptEnabled });
    await signIn(page);
    await page.goto(settings.pending);
    await page.waitForSelector('text=still waiting for 1 of');
    if (javaScriptEnabled) {
      await inspect(page, 'a revocation that waits');
      // Fragments arrive meanwhile: still the same page.
      await page.waitForTimeout(2_500);
      await page.waitForSelector('text=still waiting for 1 of');
    } else {
      console.log('RESUME');
    }
    if (!javaScriptEnabled) await page.waitForSelector('text=Dead on 3 of 3 replicas', { timeout: 60_000 });
    counts.flows += 1;
    await page.context().close();
  }
}

try {
  if (settings.pending) {
    await pending();
  } else if (logins) {
    for (const login of logins) {
      await asAPerson(login, true);
      await asAPerson(login, false);
    }
  } else {
    await everyPage(true);
    if (!pictures) {
      await everyPage(false);
      await byKeyboard();
      await lifeOfAKey(true);
      await lifeOfAKey(false);
    }
  }
} catch (error) {
  fail(String(error.stack ?? error).slice(0, 1_500));
} finally {
  await browser.close();
}
console.log(JSON.stringify({ ...counts, failures: failures.length }));
process.exit(failures.length ? 1 : 0);
