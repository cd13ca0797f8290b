/**
 * A real etcd for tests: one member or several, in memory-backed storage, on free loopback ports.
 *
 * `EtcdServer.start()` fails loudly when etcd is missing: a suite that needs it must not pass without it. The same folder
 * and port are kept over `kill()` and `restart()`, so a client sees the same store come back. With `prefixCommand` it
 * runs elsewhere, such as `['ip', 'netns', 'exec', 'x']`; then `host` says where it listens. Only the process that this
 * object started is ever signalled.
 */

import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

export interface EtcdServerOptions {
  /** Address to listen on; default 127.0.0.1. */
  readonly host?: string
  /** Default: a free one. */
  readonly port?: number
  /** Runs etcd under this command, such as `['ip', 'netns', 'exec', 'x']`. */
  readonly prefixCommand?: readonly string[]
  /** Serves TLS with these files and asks clients for a certificate of the same CA. */
  readonly tls?: { readonly caFile: string; readonly certFile: string; readonly keyFile: string }
  readonly extraArgs?: readonly string[]
}

/** What a member of a larger cluster must know before any of them runs. */
interface Membership {
  readonly name: string
  readonly peerUrl: string
  readonly initialCluster: string
}

export class EtcdServer {
  readonly url: string
  readonly port: number
  /** Holds the data; temporary files of a test may live beside it. */
  readonly folder: string
  readonly #options: EtcdServerOptions
  readonly #member: Membership
  #child: ChildProcess | undefined
  #output = ''

  private constructor(options: EtcdServerOptions, port: number, member: Membership) {
    this.#options = options
    this.port = port
    this.#member = member
    this.url = `${options.tls ? 'https' : 'http'}://${bracketed(options.host ?? '127.0.0.1')}:${this.port}`
    this.folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'mx-etcd-'))
  }

  static async start(options: EtcdServerOptions = {}): Promise<EtcdServer> {
    const host = options.host ?? '127.0.0.1'
    // In another namespace its ports are free or not independently of ours, so the usual ones are taken.
    const elsewhere = options.prefixCommand !== undefined
    const port = options.port ?? (elsewhere ? 2379 : await freePort(host))
    const peerUrl = `http://${bracketed(host)}:${elsewhere ? port + 1 : await freePort(host)}`
    const server = new EtcdServer(options, port, { name: 'mx', peerUrl, initialCluster: `mx=${peerUrl}` })
    await server.restart()
    return server
  }

  /** A cluster on this host's loopback, with election times that survive a busy machine. */
  static async startCluster(members: number): Promise<EtcdServer[]> {
    const host = '127.0.0.1'
    const all: { name: string; port: number; peerUrl: string }[] = []
    for (let i = 0; i < members; i++)
      all.push({ name: `mx-${i}`, port: await freePort(), peerUrl: `http://${host}:${await freePort()}` })
    const initialCluster = all.map(({ name, peerUrl }) => `${name}=${peerUrl}`).join(',')
    const extraArgs = ['--heartbeat-interval=50', '--election-timeout=500']
    const servers = all.map(
      ({ name, port, peerUrl }) => new EtcdServer({ extraArgs }, port, { name, peerUrl, initialCluster }),
    )
    // A member is ready only when a majority is.
    await Promise.all(servers.map(server => server.restart()))
    return servers
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** Starts it on the data it has; waits until it answers. */
  async restart(): Promise<void> {
    const { name, peerUrl, initialCluster } = this.#member
    const { tls } = this.#options
    const args = [
      `--name=${name}`,
      `--data-dir=${join(this.folder, 'data')}`,
      `--listen-client-urls=${this.url}`,
      `--advertise-client-urls=${this.url}`,
      `--listen-peer-urls=${peerUrl}`,
      `--initial-advertise-peer-urls=${peerUrl}`,
      `--initial-cluster=${initialCluster}`,
      '--heartbeat-interval=10',
      '--election-timeout=50',
      '--unsafe-no-fsync',
      '--logger=zap',
      '--log-outputs=stderr',
      ...(tls ? [`--cert-file=${tls.certFile}`, `--key-file=${tls.keyFile}`] : []),
      ...(tls ? [`--trusted-ca-file=${tls.caFile}`, '--client-cert-auth'] : []),
      ...(this.#options.extraArgs ?? []),
    ]
    const [command = 'etcd', ...rest] = [...(this.#options.prefixCommand ?? []), 'etcd', ...args]
    const child = spawn(command, rest, { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#child = child
    this.#output = ''
    let failure: string | undefined
    child.on('error', error => void (failure = `etcd cannot be started (apt: etcd-server): ${error.message}`))
    child.on('exit', code => void (failure ??= `etcd ended with ${code}: ${this.#output.slice(-2000)}`))
    child.stderr.on('data', chunk => void (this.#output = `${this.#output}${String(chunk)}`.slice(-20_000)))
    const deadline = Date.now() + 15_000
    // etcd says so itself; a probe from outside would have to know its certificates and its namespace.
    while (!/ready to serve client requests|serving (insecure )?client|serving client traffic/i.test(this.#output)) {
      if (failure !== undefined) throw new Error(failure)
      if (Date.now() > deadline) throw new Error(`etcd was not ready within 15 s: ${this.#output.slice(-2000)}`)
      await sleep(5)
    }
  }

  /** SIGKILL, or SIGTERM when it is to leave in order; waits until it is gone. */
  async kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise<void>(done => void child.once('exit', () => done()))
    child.kill(signal)
    await gone
  }

  /** Freezes it, as a hanging disk or a cut cable does: connections stay, answers do not come. */
  freeze(): void {
    this.#child?.kill('SIGSTOP')
  }

  thaw(): void {
    this.#child?.kill('SIGCONT')
  }

  /** Ends it and removes its folder. */
  async stop(): Promise<void> {
    await this.kill()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** A CA, a server certificate for `names` and client certificates by common name, made with openssl. */
export function makeCertificates(folder: string, names: readonly string[], clients: readonly string[]) {
  const run = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' })
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  run('req', '-x509', ...newKey, '-days', '2', '-subj', '/CN=mx-ca', '-keyout', 'ca.key', '-out', 'ca.pem')
  const issue = (name: string, extensions: string) => {
    writeFileSync(join(folder, `${name}.ext`), extensions)
    run('req', ...newKey, '-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.csr`)
    const signing = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', `${name}.ext`]
    run('x509', '-req', '-in', `${name}.csr`, ...signing, '-out', `${name}.pem`)
  }
  const alternatives = names.map(name => (/^[\d.]+$|:/.test(name) ? `IP:${name}` : `DNS:${name}`)).join(',')
  issue('server', `subjectAltName=${alternatives}\nextendedKeyUsage=serverAuth,clientAuth\n`)
  for (const client of clients) issue(client, 'extendedKeyUsage=clientAuth\n')
  const file = (name: string) => join(folder, name)
  return { caFile: file('ca.pem'), certFile: file('server.pem'), keyFile: file('server.key'), file }
}

/** A port nobody listens on now. Somebody may take it before it is used; the start then fails and says so. */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  const probe = createServer()
  await new Promise<void>((done, fail) => {
    probe.once('error', fail)
    probe.listen(0, host, done)
  })
  const address = probe.address()
  await new Promise<void>(done => void probe.close(() => done()))
  if (typeof address !== 'object' || !address) throw new Error('no port was given')
  return address.port
}

function bracketed(host: string): string {
  return host.includes(':') ? `[${host}]` : host
}
