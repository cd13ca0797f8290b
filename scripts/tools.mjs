/**
 * The programs of this machine that demo and tests need, and how to get them. Plain JavaScript: it runs on whatever Node
 * is there first (18 or newer).
 *
 * What is missing is installed with apt where we are root and apt is there. Installing starts nothing and changes nothing
 * else on this host:
 * - Debian's bird2, frr, gobgpd and etcd-server start at once when installed: a policy-rc.d that forbids it stands in
 *   /usr/sbin meanwhile. What stood there before comes back afterwards, also after an error or Ctrl-C, and the next run
 *   clears up after a kill.
 * - They would start at the next boot as well: units that came with new packages are switched off.
 * - No package is removed or upgraded (apt --no-remove --no-upgrade), so a bird 1.6 or an etcd that runs here goes on.
 *
 *   node scripts/tools.mjs [demo|etcd|test|interop]      install what is missing of that set
 *
 * What conflicts with one of these is not installed but unpacked beside the sources (`unpackTool`): bird 1.6 with bird2 as
 * a package, and openbgpd by its /usr/sbin/bgpd, which would stand in front of FRR's.
 */

import { spawn, spawnSync } from 'node:child_process'
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Debian package -> the programs of it that are used. */
const packages = {
  iproute2: ['ip'],
  iptables: ['iptables', 'ip6tables', 'iptables-restore', 'ip6tables-restore'],
  ipset: ['ipset'],
  conntrack: ['conntrack'],
  'etcd-server': ['etcd'],
  bird2: ['bird', 'birdc'],
  frr: ['zebra', 'bgpd', 'bfdd', 'vtysh'],
  gobgpd: ['gobgpd', 'gobgp'],
  bgpdump: ['bgpdump'],
}

/** Routers that only the interop matrix meets: `npm test` does without them. */
const matrixOnly = {
  exabgp: ['exabgp'],
}

/** What each command cannot do without. */
export const sets = {
  demo: ['iproute2', 'iptables', 'ipset'],
  etcd: ['iproute2', 'iptables', 'ipset', 'etcd-server'],
  test: Object.keys(packages),
  interop: ['iproute2', 'iptables', 'ipset', 'bird2', 'frr', 'gobgpd', ...Object.keys(matrixOnly)],
}
Object.assign(packages, matrixOnly)

/** Where else to look than PATH: a user's PATH lacks sbin, and FRR hides its daemons. */
const folders = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin', '/usr/lib/frr']

export function hasProgram(name) {
  return [...(process.env.PATH ?? '').split(':'), ...folders].some(folder => {
    if (folder === '') return false
    try {
      accessSync(`${folder}/${name}`, constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** Packages of the set of which a program is missing. */
export function missingOf(set) {
  return sets[set].filter(name => packages[name].some(program => !hasProgram(program)))
}

/**
 * Installs what is missing. Resolves to the packages that were installed, those that are still missing, and why.
 * `say` gets lines for a person.
 */
export async function ensureTools(set, say) {
  restorePolicy() // after a run that was killed
  const missing = missingOf(set)
  if (missing.length === 0) return { installed: [], missing: [], why: '' }
  const why = whyNotApt()
  if (why !== '') return { installed: [], missing, why }
  say(`installing with apt: ${missing.join(', ')} (nothing is started, upgraded or removed)`)
  const why2 = await install(missing, say)
  const left = missingOf(set)
  return { installed: missing.filter(name => !left.includes(name)), missing: left, why: why2 }
}

/**
 * A package that must not be installed here: downloaded and unpacked under `.cache`, nothing of it is run. Resolves to the
 * folder that is its root, or throws with apt's words.
 */
export async function unpackTool(name, say) {
  const cache = join(dirname(fileURLToPath(import.meta.url)), '..', '.cache', 'packages')
  const root = join(cache, name)
  if (existsSync(root)) return root
  if (!hasProgram('apt-get') || !hasProgram('dpkg')) throw new Error(`${name}: there is no apt-get here`)
  const work = join(cache, `${name}.${process.pid}`)
  mkdirSync(work, { recursive: true })
  try {
    say(`unpacking ${name} into ${root} (it is not installed)`)
    let answer = await apt(['download', '-q', name], work)
    if (answer.status !== 0) {
      await apt(['update', '-q'])
      answer = await apt(['download', '-q', name], work)
    }
    const file = readdirSync(work).find(one => one.endsWith('.deb'))
    if (answer.status !== 0 || file === undefined) throw new Error(`${name}: apt-get: ${lastWords(answer.output)}`)
    const { status, stderr } = spawnSync('dpkg', ['-x', file, 'root'], { cwd: work, encoding: 'utf8' })
    if (status !== 0) throw new Error(`${name}: dpkg: ${stderr}`)
    // Whole or not at all; another run may have been quicker.
    if (!existsSync(root)) renameSync(join(work, 'root'), root)
    return root
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/** One line per missing package: what lacks it, and the command that gets it. */
export function describeMissing(missing, why) {
  const lines = missing.map(name => `  ${name}: ${packages[name].filter(program => !hasProgram(program)).join(', ')}`)
  return [
    `missing on this machine${why ? ` (${why})` : ''}:`,
    ...lines,
    `try: ${process.getuid?.() === 0 ? '' : 'sudo '}apt-get install --no-remove ${missing.join(' ')}`,
    'On systems without apt, install the programs named above by their own package manager.',
  ].join('\n')
}

function whyNotApt() {
  if (!hasProgram('apt-get') || !hasProgram('dpkg')) return 'there is no apt-get here'
  if (process.getuid?.() !== 0) return 'installing needs root'
  return ''
}

// --------------------------------------------------------------------------------------------------------- install

const environment = {
  ...process.env,
  DEBIAN_FRONTEND: 'noninteractive',
  // needrestart would restart daemons whose libraries changed.
  NEEDRESTART_SUSPEND: '1',
  NEEDRESTART_MODE: 'l',
}

const aptOptions = [
  '-y',
  '-q',
  '--no-install-recommends',
  '--no-remove',
  '--no-upgrade',
  '-o',
  'DPkg::Lock::Timeout=120',
]

async function install(missing, say) {
  const quit = name => {
    restorePolicy()
    process.exit(name === 'SIGINT' ? 130 : 143)
  }
  process.on('SIGINT', quit)
  process.on('SIGTERM', quit)
  try {
    forbidStarts()
    let answer = await apt(['install', ...aptOptions, ...missing])
    if (answer.status !== 0) {
      say('apt does not know them all yet: reading the package lists')
      await apt(['update', '-q'])
      answer = await apt(['install', ...aptOptions, ...missing])
    }
    // One package that cannot be had must not keep the others away.
    if (answer.status !== 0)
      for (const name of missing) {
        const one = await apt(['install', ...aptOptions, name])
        if (one.status !== 0) answer = one
      }
    switchOff(missing)
    return missing.every(name => packages[name].every(hasProgram)) ? '' : `apt-get: ${lastWords(answer.output)}`
  } finally {
    restorePolicy()
    process.off('SIGINT', quit)
    process.off('SIGTERM', quit)
  }
}

function apt(args, cwd) {
  return new Promise(resolve => {
    // A session of its own: Ctrl-C must reach us, not leave dpkg half way.
    const child = spawn('apt-get', args, { env: environment, stdio: ['ignore', 'pipe', 'pipe'], detached: true, cwd })
    let output = ''
    const keep = part => {
      output = (output + part).slice(-20000)
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    child.on('error', error => resolve({ status: 127, output: error.message }))
    child.on('close', status => resolve({ status: status ?? 1, output }))
  })
}

function lastWords(output) {
  const errors = output.split('\n').filter(line => line.startsWith('E: '))
  return (errors[0] ?? output.trim().split('\n').pop() ?? 'it said nothing').replace(/^E: /, '')
}

/** Services that came with these packages are not to start at the next boot either. */
function switchOff(names) {
  for (const name of names) {
    const { stdout } = spawnSync('dpkg', ['-L', name], { encoding: 'utf8' })
    const files = (stdout ?? '').split('\n')
    const units = files.map(file => /\/systemd\/system\/([^/@]+\.service)$/.exec(file)?.[1]).filter(Boolean)
    const scripts = files.map(file => /^\/etc\/init\.d\/([^/]+)$/.exec(file)?.[1]).filter(Boolean)
    if (hasProgram('systemctl')) for (const unit of units) spawnSync('systemctl', ['disable', unit])
    else if (hasProgram('update-rc.d')) for (const script of scripts) spawnSync('update-rc.d', [script, 'disable'])
  }
}

// ---------------------------------------------------------------------------------------------------- policy-rc.d

const policyFile = '/usr/sbin/policy-rc.d'
const savedFile = '/usr/sbin/policy-rc.d.before-manx'
const ourPolicy = '#!/bin/sh\n# Written by manx scripts/tools.mjs while it installs; start nothing.\nexit 101\n'

function forbidStarts() {
  if (existsSync(policyFile)) renameSync(policyFile, savedFile)
  writeFileSync(policyFile, ourPolicy, { mode: 0o755 })
}

function restorePolicy() {
  try {
    const isOurs = existsSync(policyFile) && readFileSync(policyFile, 'utf8') === ourPolicy
    if (isOurs) rmSync(policyFile)
    if (existsSync(savedFile) && (isOurs || !existsSync(policyFile))) renameSync(savedFile, policyFile)
  } catch (error) {
    if (process.getuid?.() === 0) throw error // without root it was never ours
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const set = process.argv[2] ?? 'test'
  if (!Object.prototype.hasOwnProperty.call(sets, set)) {
    console.error(`error: \`${set}\` is none of ${Object.keys(sets).join(', ')}`)
    process.exit(2)
  }
  const { installed, missing, why } = await ensureTools(set, line => console.log(line))
  console.log(installed.length > 0 ? `installed: ${installed.join(', ')}` : 'nothing had to be installed')
  if (missing.length > 0) console.error(describeMissing(missing, why))
  process.exitCode = missing.length > 0 ? 1 : 0
}
