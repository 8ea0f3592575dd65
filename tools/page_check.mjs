// Opens a report's page in Chromium at 1280 and 390 pixels, light and dark, and says what is wrong with it:
// wider than the window, letters of a picture over each other or cut off, requests, script errors, axe-core's findings.
// Screenshots and a print as PDF go to OUT, to be looked at. Exit code 1 if anything was found.
//
//   mkdir check && cd check && npm install puppeteer-core axe-core && cd ..
//   node tools/page_check.mjs check runs/NAME/report.html OUT          (CHROMIUM=/usr/bin/chromium)
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';
import {pathToFileURL} from 'node:url';

const LEAST_PX = 8; // height of the smallest letters in a picture
const [modules, page_path, out] = process.argv.slice(2);
const require = createRequire(path.resolve(modules, 'package.json'));
const puppeteer = (await import(pathToFileURL(require.resolve('puppeteer-core')))).default;
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const url = pathToFileURL(path.resolve(page_path)).href;
fs.mkdirSync(out, {recursive: true});

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu'],
});
let found = 0;
for (const width of [1280, 390]) {
  for (const scheme of ['light', 'dark']) found += await check(width, scheme);
}
const page = await browser.newPage();
await page.goto(url);
await page.pdf({path: `${out}/print.pdf`, preferCSSPageSize: true});
await browser.close();
console.log(found ? `${found} findings` : 'nothing found');
process.exitCode = found ? 1 : 0;

async function check(width, scheme) {
  const page = await browser.newPage();
  const lines = [];
  page.on('request', request => request.url() === url || lines.push(`request: ${request.url()}`));
  page.on('pageerror', error => lines.push(`error: ${error}`));
  page.on('console', message => message.type() === 'error' && lines.push(`error: ${message.text()}`));
  await page.setViewport({width, height: 900});
  await page.emulateMediaFeatures([{name: 'prefers-color-scheme', value: scheme}]);
  await page.goto(url);
  await page.screenshot({path: `${out}/${width}-${scheme}.png`, fullPage: true});
  const seen = await page.evaluate(layout);
  lines.push(...seen.lines);
  if (seen.overflow > 0) lines.push(`the page is ${seen.overflow} pixels wider than the window`);
  if (seen.smallest < LEAST_PX) lines.push(`letters of ${seen.smallest.toFixed(1)} pixels in a picture`);
  await page.evaluate(axe);
  lines.push(...await page.evaluate(accessibility));
  await page.close();
  console.log(`${width} ${scheme}: ${lines.length} findings, smallest letters ${seen.smallest.toFixed(1)} px`);
  for (const line of lines) console.log(`    ${line}`);
  return lines.length;
}

function layout() {
  const lines = [];
  let smallest = Infinity;
  for (const svg of document.querySelectorAll('svg')) {
    const texts = [...svg.querySelectorAll('text')].filter(text => text.textContent.trim());
    const edge = svg.getBoundingClientRect();
    const boxes = texts.map(text => [text.textContent.trim(), text.getBoundingClientRect()]);
    for (const text of texts) {
      const matrix = text.getScreenCTM();
      smallest = Math.min(smallest, parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.a, matrix.b));
    }
    for (const [text, box] of boxes) {
      const is_cut = box.left < edge.left - 1 || box.right > edge.right + 1 || box.top < edge.top - 1 || box.bottom > edge.bottom + 1;
      if (is_cut) lines.push(`cut off: ${text}`);
    }
    for (let i = 0; i < boxes.length; i++) {
      for (let j = i + 1; j < boxes.length; j++) {
        const [[a, x], [b, y]] = [boxes[i], boxes[j]];
        const w = Math.min(x.right, y.right) - Math.max(x.left, y.left);
        const h = Math.min(x.bottom, y.bottom) - Math.max(x.top, y.top);
        if (w > 1 && h > 2.5) lines.push(`over each other: ${a} / ${b}`);
      }
    }
  }
  return {lines, smallest, overflow: document.documentElement.scrollWidth - window.innerWidth};
}

async function accessibility() {
  for (const details of document.querySelectorAll('details')) details.open = true;
  const result = await window.axe.run();
  return result.violations.map(one => `axe ${one.impact}: ${one.id}, ${one.nodes.length} times: ${one.nodes[0].html.slice(0, 120)}`);
}
