/**
 * The right to make network namespaces: as root where we are root, else inside a user namespace of our own.
 *
 * Without root, a holder process keeps one user, network and mount namespace alive, with an empty /run for namespace
 * names and the tables' lock; every later command steps into it and finds itself root there. All labs of a user share
 * the holder; the last `down` ends it. Nothing outside those namespaces is within its reach.
 */

import { mkdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { CodedError } from '../../lib/errors.ts'
import { SystemClock } from '../../platform/clock.ts'
import { isAlive, type Launched, launch, namespaceOf, pause, processesIn, run, stop } from './process.ts'
import { stateRoot } from './state.ts'

const capNetAdmin = 12
const capNetRaw = 13
const capSysAdmin = 21

/** `here`: this process may build labs. Otherwise the argv to put before a command so that it may. */
export type Place = { readonly kind: 'here' } | { readonly kind: 'inside'; readonly prefix: readonly string[] }

/** Where a lab command must run; starts the holder when there is none. */
export async function findPlace(): Promise<Place> {
  if (mayBuild()) return { kind: 'here' }
  return { kind: 'inside', prefix: enter(holder() ?? (await startHolder())) }
}

/** The same for commands that only look: undefined when nothing was ever started. */
export function findExistingPlace(): Place | undefined {
  if (mayBuild()) return { kind: 'here' }
  const held = holder()
  return held && { kind: 'inside', prefix: enter(held) }
}

/** Whether labs of this user live in a user namespace. */
export function isUserNamespace(): boolean {
  return process.env['MANX_LAB_INSIDE'] === '1'
}

/** Ends the holder and whatever still runs in its user namespace. To be called from outside or inside. */
export async function endHolder(): Promise<void> {
  const held = holder()
  if (!held) return
  const namespace = namespaceOf(held.pid, 'user')
  for (const file of [holderFile(), join(stateRoot(), 'holder.log')]) rmSync(file, { force: true })
  if (namespace === undefined || namespace === namespaceOf(1, 'user')) return
  // From inside, we are one of them: everybody else first, we end by ourselves.
  const others = processesIn('user', namespace).filter(one => one.pid !== process.ppid)
  await stop(others, new SystemClock(), 1000)
  try {
    rmdirSync(stateRoot())
  } catch {
    // something of somebody else's is in it
  }
}

function mayBuild(): boolean {
  if (process.getuid?.() !== 0) return false
  const effective = /^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'
  const bits = BigInt(`0x${effective}`)
  return [capNetAdmin, capNetRaw, capSysAdmin].every(bit => (bits >> BigInt(bit)) & 1n)
}

function holderFile(): string {
  return join(stateRoot(), 'holder.json')
}

function holder(): Launched | undefined {
  try {
    const held = JSON.parse(readFileSync(holderFile(), 'utf8')) as Launched
    return isAlive(held) ? held : undefined
  } catch {
    return undefined
  }
}

function enter(held: Launched): string[] {
  return [
    ['nsenter', '--target', String(held.pid), '--user', '--net', '--mount', '--preserve-credentials'],
    // Entering a mount namespace moves a process to its root folder.
    [`--wd=${process.cwd()}`],
    ['env', 'MANX_LAB_INSIDE=1', `MANX_LAB_DIR=${stateRoot()}`],
  ].flat()
}

const insideScript = `
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
ip link set lo up
echo ready > "$1"
exec sleep infinity`

async function startHolder(): Promise<Launched> {
  const root = stateRoot()
  mkdirSync(root, { recursive: true, mode: 0o700 })
  const ready = join(root, 'holder.ready')
  const logFile = join(root, 'holder.log')
  rmSync(ready, { force: true })
  writeFileSync(logFile, '')
  const argv = ['unshare', '--user', '--map-root-user', '--net', '--mount', 'sh', '-ec', insideScript, 'sh', ready]
  const held = await launch(argv, { logFile })
  const clock = new SystemClock()
  const deadline = clock.now() + 5000
  for (;;) {
    if (exists(ready)) break
    if (!isAlive(held) || clock.now() > deadline) throw refused(readFileSync(logFile, 'utf8').trim())
    await pause(clock, 10)
  }
  rmSync(ready, { force: true })
  writeFileSync(holderFile(), `${JSON.stringify(held)}\n`)
  // Some systems let the namespace be made and then forbid its use (AppArmor): see that it is good for something.
  const tried = await run([...enter(held), 'ip', 'netns', 'add', 'manx-try'], { mayFail: true })
  if (tried.status !== 0) {
    await endHolder()
    throw refused(tried.stderr.trim())
  }
  await run([...enter(held), 'ip', 'netns', 'del', 'manx-try'], { mayFail: true })
  return held
}

function refused(words: string): CodedError {
  return new CodedError(
    { code: 'not-permitted' },
    `the lab needs root, or user namespaces, which this system refuses: ${words || 'no reason given'}\n` +
      'try: sudo npm run demo; or allow them: sysctl -w kernel.unprivileged_userns_clone=1 ' +
      'kernel.apparmor_restrict_unprivileged_userns=0',
  )
}

function exists(file: string): boolean {
  try {
    readFileSync(file)
    return true
  } catch {
    return false
  }
}
