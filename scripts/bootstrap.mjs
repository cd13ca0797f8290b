/**
 * What `npm run demo` and `npm test` start: from a fresh clone on a machine with any Node from 18 on to the program
 * itself, under the Node 24 that package-lock.json pins. Says what it installs; where it cannot, what is missing and how
 * to get it.
 *
 *   node scripts/bootstrap.mjs demo [ARGUMENTS OF THE DEMO]
 *   node scripts/bootstrap.mjs test [ARGUMENTS OF scripts/test.ts]
 */

import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describeMissing, ensureTools } from './tools.mjs'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const say = line => console.error(line)

const programs = { demo: 'src/app/lab/demo.ts', test: 'scripts/test.ts' }

async function main() {
  const [what, ...args] = process.argv.slice(2)
  if (!(what in programs)) {
    say('usage: node scripts/bootstrap.mjs demo|test [ARGUMENTS]')
    return 2
  }
  if (process.platform !== 'linux') {
    say(`error: manx runs on Linux; this is ${process.platform}`)
    return 1
  }
  const started = process.hrtime.bigint()
  if (!(await ensurePackages())) return 1
  const node = pinnedNode()
  if (node === undefined) {
    say(`error: no Node 24 for ${process.arch}: the package node-linux-${process.arch} is not in package-lock.json`)
    return 1
  }
  const isGoing = what === 'demo' && args.includes('--down')
  const set = what === 'test' ? 'test' : asksForEtcd(args) ? 'etcd' : 'demo'
  const tools = isGoing ? { installed: [], missing: [], why: '' } : await ensureTools(set, say)
  if (tools.missing.length > 0) {
    say(describeMissing(tools.missing, tools.why))
    // Tests that lack a tool are named at the end of the run; the demo cannot do without.
    if (what === 'demo') return 1
  }
  const env = {
    ...process.env,
    PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin:/sbin`,
    MANX_DEMO_TOOLS:
      tools.installed.length > 0 ? `installed ${tools.installed.join(', ')}` : 'nothing had to be installed',
    MANX_TOOLS_MISSING: tools.missing.join(' '),
  }
  // Bundles make the CLI and the CNI plugin start twice as fast; without them the TypeScript runs as it is.
  if (!isGoing && (await run(node, ['scripts/build.ts'], { env, quiet: true })) !== 0)
    say('note: no bundles could be built; programs start from their sources, a little slower')
  const ms = Number((process.hrtime.bigint() - started) / 1000000n)
  if (ms > 3000) say(`ready to start after ${(ms / 1000).toFixed(0)} s`)
  return run(node, [programs[what], ...args], { env })
}

function asksForEtcd(args) {
  const at = args.findIndex(arg => arg === '--datastore' || arg.startsWith('--datastore='))
  return at >= 0 && (args[at] === '--datastore' ? args[at + 1] : args[at].split('=')[1]) === 'etcd'
}

function pinnedNode() {
  const path = join(root, `node_modules/node-linux-${process.arch}/bin/node`)
  return existsSync(path) ? path : undefined
}

// ---------------------------------------------------------------------------------------------------- npm packages

/** Runs `npm ci` unless node_modules holds exactly what package-lock.json says. */
async function ensurePackages() {
  const wanted = packagesOf('package-lock.json')
  const reason = whatIsWrong(wanted)
  if (reason === undefined) return true
  say(`${reason}: npm ci installs ${wanted.size} npm packages of package-lock.json into node_modules`)
  const npm = process.env.npm_execpath
  const [program, first] = npm && /\.c?js$/.test(npm) ? [process.execPath, [npm]] : ['npm', []]
  // The devDependencies are what tests and bundles are made of, whatever NODE_ENV says.
  const flags = ['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund', '--loglevel=error']
  const status = await run(program, [...first, ...flags], { env: process.env })
  const left = status === 0 ? whatIsWrong(wanted) : `npm ci ended with ${status}`
  if (left === undefined) return true
  say(`error: npm packages are not complete: ${left}`)
  say(`try: cd ${root} && npm ci    (it needs the npm registry, and write access to that folder)`)
  return false
}

/** Path below node_modules -> version, of what must be there on this machine. */
function packagesOf(file) {
  const lock = JSON.parse(readFileSync(join(root, file), 'utf8'))
  return new Map(
    Object.entries(lock.packages)
      .filter(([path, one]) => path.startsWith('node_modules/') && !one.optional)
      .map(([path, one]) => [path, one.version]),
  )
}

function whatIsWrong(wanted) {
  if (!existsSync(join(root, 'node_modules/.package-lock.json'))) return 'there is no node_modules yet'
  const actual = packagesOf('node_modules/.package-lock.json')
  for (const [path, version] of wanted) {
    if (actual.get(path) !== version) return `package-lock.json has changed (${path.slice('node_modules/'.length)})`
    if (!existsSync(join(root, path, 'package.json'))) return `node_modules is incomplete (${path})`
  }
  return undefined
}

// --------------------------------------------------------------------------------------------------------- running

function run(program, args, { env, quiet = false }) {
  return new Promise(done => {
    const child = spawn(program, args, { cwd: root, env, stdio: quiet ? 'ignore' : 'inherit' })
    // The terminal sends Ctrl-C to the child too; it ends in its own way and we pass its code on.
    const wait = () => {}
    const pass = () => child.kill('SIGTERM')
    process.on('SIGINT', wait)
    process.on('SIGTERM', pass)
    child.on('error', error => {
      say(`error: ${program} could not be started: ${error.message}`)
      done(127)
    })
    child.on('close', (code, signal) => {
      process.off('SIGINT', wait)
      process.off('SIGTERM', pass)
      done(code ?? (signal === 'SIGINT' ? 130 : 143))
    })
  })
}

process.exitCode = await main()
