/**
 * Routers outside the cluster: BIRD 2, FRR, GoBGP, or our own `manx-bgp`.
 *
 * A row per kind: the programs it needs, its configuration as text, its daemons, how to ask it for its routes and its
 * sessions. The text is a pure function of the plan, so that tests compare it without a kernel. All daemons run in the
 * foreground, keep every file in a folder of their own, and never see the host's configuration of the same program.
 *
 * Each router takes every prefix from the nodes and announces none to them; routers of racks exchange what they learned.
 * All do graceful restart, and try again within seconds, for a lab restarts things on purpose.
 */

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Ip } from '../../lib/ip.ts'
import type { Clock } from '../../lib/ports.ts'
import { version } from '../../lib/version.ts'
import { buildRoot, findProgram, labProgram, pause, run } from './process.ts'
import type { RouterKind } from './topology.ts'

export interface RouterPeer {
  readonly name: string
  readonly as: number
  readonly ip: Ip
  readonly ip6?: Ip
  /** Our own address towards it, where that is not the router's usual one. */
  readonly source?: Ip
  readonly source6?: Ip
  /** Another rack's router: routes are exchanged, not only taken. */
  readonly exchange: boolean
  readonly bfd: boolean
}

export interface RouterPlan {
  readonly name: string
  readonly kind: RouterKind
  readonly as: number
  readonly ip: Ip
  readonly ip6?: Ip
  readonly peers: readonly RouterPeer[]
  /** Its folder: configuration, sockets, pid files. */
  readonly folder: string
}

export interface Daemon {
  readonly name: string
  readonly argv: readonly string[]
  /** Waits until the next daemon may be started. */
  ready?(clock: Clock): Promise<void>
}

export interface Session {
  readonly peer: string
  readonly established: boolean
}

interface RouterProgram {
  readonly programs: readonly string[]
  /** What a person calls it, with its version. */
  version(): Promise<string>
  files(plan: RouterPlan): readonly { readonly name: string; readonly text: string }[]
  daemons(plan: RouterPlan): readonly Daemon[]
  /** Argv that prints its routes for a person, to be run inside its namespace; `shown` is what that person would type. */
  routes(plan: RouterPlan, family: 4 | 6): { readonly argv: readonly string[]; readonly shown: string }
  /** Argv whose output `parseSessions` reads. */
  sessions(plan: RouterPlan): readonly string[]
  parseSessions(text: string): Session[]
}

export function routerProgram(kind: RouterKind): RouterProgram {
  return programs[kind]
}

/** Programs of this kind that this machine lacks. */
export function missingPrograms(kind: RouterKind): string[] {
  return programs[kind].programs.filter(name => findProgram(name) === undefined)
}

/** The kind itself where its programs are installed, else our own speaker. */
export function availableKind(wanted: RouterKind): RouterKind {
  return missingPrograms(wanted).length === 0 ? wanted : 'manx'
}

/** `proto bgp` of iproute2. */
const bgpProtocol = 186

const programs: Record<RouterKind, RouterProgram> = {
  bird: {
    programs: ['bird', 'birdc'],
    version: async () => `BIRD ${await versionOf(['bird', '--version'], /version (\S+)/)}`,
    files: plan => [{ name: 'bird.conf', text: birdConfig(plan) }],
    daemons: plan => [
      {
        name: 'bird',
        argv: [program('bird'), '-f', '-c', `${plan.folder}/bird.conf`, '-s', `${plan.folder}/bird.ctl`],
      },
    ],
    routes: (plan, family) => ({
      argv: birdc(plan, family === 4 ? 'show route primary table master4' : 'show route primary table master6'),
      shown: 'birdc show route primary',
    }),
    sessions: plan => birdc(plan, 'show protocols'),
    parseSessions: text =>
      [...text.matchAll(/^(\S+)\s+BGP\s.*$/gm)].map(line => ({
        peer: line[1]!,
        established: line[0].trimEnd().endsWith('Established'),
      })),
  },
  frr: {
    programs: ['zebra', 'bgpd', 'vtysh'],
    version: async () => `FRR ${await versionOf([program('bgpd'), '--version'], /version (\S+)/)}`,
    files: plan => [
      { name: 'zebra.conf', text: `hostname ${plan.name}\n` },
      { name: 'vtysh.conf', text: '' },
      { name: 'group', text: 'root:x:0:\nfrr:x:0:root\nfrrvty:x:0:root\n' },
      { name: 'bgpd.conf', text: frrConfig(plan) },
    ],
    daemons: plan => [
      // bgpd looks for zebra's socket once, and then only every ten seconds.
      { name: 'zebra', argv: frrArgv(plan, 'zebra'), ready: clock => waitForFile(`${plan.folder}/zserv.api`, clock) },
      { name: 'bgpd', argv: frrArgv(plan, 'bgpd') },
    ],
    routes: (plan, family) => ({
      argv: vtysh(plan, family === 4 ? 'show ip route bgp' : 'show ipv6 route bgp'),
      shown: family === 4 ? "vtysh -c 'show ip route bgp'" : "vtysh -c 'show ipv6 route bgp'",
    }),
    sessions: plan => vtysh(plan, 'show bgp summary json'),
    parseSessions: parseFrrSessions,
  },
  gobgp: {
    programs: ['gobgpd', 'gobgp'],
    version: async () => `GoBGP ${await versionOf(['gobgpd', '--version'], /version (\S+)/)}`,
    files: plan => [{ name: 'gobgpd.conf', text: gobgpConfig(plan) }],
    daemons: plan => [
      {
        name: 'gobgpd',
        argv: [
          program('gobgpd'),
          '-f',
          `${plan.folder}/gobgpd.conf`,
          '--api-hosts',
          '127.0.0.1:50051',
          '--pprof-disable',
        ],
      },
      // GoBGP writes no kernel routes without zebra: this follows its best paths instead.
      { name: 'fib', argv: [process.execPath, labProgram('gobgp-fib.ts'), program('gobgp')] },
    ],
    routes: (_plan, family) => ({
      argv: ['gobgp', 'global', 'rib', '-a', family === 4 ? 'ipv4' : 'ipv6'],
      shown: `gobgp global rib -a ${family === 4 ? 'ipv4' : 'ipv6'}`,
    }),
    sessions: () => ['gobgp', 'neighbor', '-j'],
    parseSessions: text =>
      (
        JSON.parse(text) as {
          conf?: { neighbor_address?: string }
          state: { neighbor_address?: string; session_state?: number }
        }[]
      ).map(one => ({
        peer: one.state.neighbor_address ?? one.conf?.neighbor_address ?? '?',
        established: one.state.session_state === 6,
      })),
  },
  manx: {
    programs: [],
    version: () => Promise.resolve(`manx ${version}`),
    files: plan => [{ name: 'manx-bgp.json', text: manxConfig(plan) }],
    daemons: plan => [
      {
        name: 'manx-bgp',
        argv: [ownProgram('manx-bgp'), '--config', `${plan.folder}/manx-bgp.json`, '--control', controlSocket(plan)],
      },
    ],
    routes: (_plan, family) => ({
      argv: ['ip', `-${family}`, 'route', 'show', 'proto', 'bgp'],
      shown: `ip -${family} route show proto bgp`,
    }),
    sessions: plan => [ownProgram('manxctl'), 'bgp', 'peers', '--at', `unix:${controlSocket(plan)}`, '-o', 'json'],
    parseSessions: text =>
      (JSON.parse(text) as { items: readonly { address: string; state: string }[] }).items.map(peer => ({
        peer: peer.address,
        established: peer.state === 'Established',
      })),
  },
}

function program(name: string): string {
  return findProgram(name) ?? name
}

async function waitForFile(path: string, clock: Clock): Promise<void> {
  for (const deadline = clock.now() + 3000; !existsSync(path) && clock.now() < deadline; ) await pause(clock, 20)
}

async function versionOf(argv: readonly string[], pattern: RegExp): Promise<string> {
  const { stdout, stderr } = await run(argv, { mayFail: true })
  return pattern.exec(stdout + stderr)?.[1] ?? 'of unknown version'
}

// ------------------------------------------------------------------------------------------------------------ BIRD

function birdc(plan: RouterPlan, command: string): string[] {
  return [program('birdc'), '-s', `${plan.folder}/bird.ctl`, ...command.split(' ')]
}

export function birdConfig(plan: RouterPlan): string {
  const sessions = plan.peers.flatMap(peer => [
    birdSession(plan, peer, 4),
    ...(plan.ip6 && peer.ip6 ? [birdSession(plan, peer, 6)] : []),
  ])
  return `log stderr { info, warning, error, fatal, remote, bug };
router id ${plan.ip.key};
graceful restart wait 30;

protocol device { scan time 10; }
protocol kernel kernel4 { ipv4 { import none; export where source = RTS_BGP; }; persist; }
protocol kernel kernel6 { ipv6 { import none; export where source = RTS_BGP; }; persist; }
${plan.peers.some(peer => peer.bfd) ? 'protocol bfd { }\n' : ''}
${sessions.join('\n')}`
}

function birdSession(plan: RouterPlan, peer: RouterPeer, family: 4 | 6): string {
  const name = `${peer.name.replaceAll('-', '_')}${family === 6 ? '_v6' : ''}`
  const local = family === 4 ? (peer.source ?? plan.ip) : (peer.source6 ?? plan.ip6)
  const remote = family === 4 ? peer.ip : peer.ip6
  return `protocol bgp ${name} {
  local ${local?.key} as ${plan.as};
  neighbor ${remote?.key} as ${peer.as};
  connect delay time 1; connect retry time 3; error wait time 1, 5; error forget time 10;
  hold time 90; graceful restart on;${peer.bfd ? ' bfd on;' : ''}
  ipv${family} { import all; export ${peer.exchange ? 'where source = RTS_BGP' : 'none'};${peer.exchange ? ' next hop self;' : ''} };
}
`
}

// ------------------------------------------------------------------------------------------------------------- FRR

/**
 * FRR's daemons want to become user frr, and refuse any user outside the group frrvty. In a user namespace neither
 * exists, so they stay root and see a group file of their own; their mount namespace is theirs alone (ip netns exec).
 */
function frrArgv(plan: RouterPlan, name: string): string[] {
  const at = (file: string) => `${plan.folder}/${file}`
  return [
    ['sh', '-ec', 'mount --bind "$1" /etc/group; shift; exec "$@"', 'sh', at('group'), program(name)],
    ['-f', at(`${name}.conf`), '-i', at(`${name}.pid`), '-z', at('zserv.api'), '--vty_socket', plan.folder],
    // Port 0: no telnet console.
    ['-P', '0', '--log', 'stdout', '--log-level', 'warnings', '-u', 'root', '-g', 'root'],
  ].flat()
}

function vtysh(plan: RouterPlan, command: string): string[] {
  return [program('vtysh'), '--vty_socket', plan.folder, '--config_dir', plan.folder, '-c', command]
}

export function frrConfig(plan: RouterPlan): string {
  const v6 = plan.peers.filter(peer => plan.ip6 && peer.ip6)
  const neighbor = (ip: Ip, peer: RouterPeer, source?: Ip) =>
    [
      ` neighbor ${ip.key} remote-as ${peer.as}`,
      ` neighbor ${ip.key} description ${peer.name}`,
      ` neighbor ${ip.key} timers connect 3`,
      ...(source ? [` neighbor ${ip.key} update-source ${source.key}`] : []),
      ...(peer.bfd ? [` neighbor ${ip.key} bfd`] : []),
    ].join('\n')
  const activated = (ip: Ip, peer: RouterPeer) =>
    [
      `  neighbor ${ip.key} activate`,
      ...(peer.exchange
        ? [`  neighbor ${ip.key} next-hop-self`]
        : [`  neighbor ${ip.key} prefix-list NONE${ip.family} out`]),
    ].join('\n')
  return `hostname ${plan.name}
ip prefix-list NONE4 seq 5 deny any
ipv6 prefix-list NONE6 seq 5 deny any
router bgp ${plan.as}
 bgp router-id ${plan.ip.key}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
${[...plan.peers.map(peer => neighbor(peer.ip, peer, peer.source)), ...v6.map(peer => neighbor(peer.ip6!, peer, peer.source6))].join('\n')}
 address-family ipv4 unicast
${plan.peers.map(peer => activated(peer.ip, peer)).join('\n')}
 exit-address-family
 address-family ipv6 unicast
${v6.map(peer => activated(peer.ip6!, peer)).join('\n')}
 exit-address-family
`
}

function parseFrrSessions(text: string): Session[] {
  const families = JSON.parse(text) as Record<string, { peers?: Record<string, { state: string }> }>
  return Object.values(families).flatMap(family =>
    Object.entries(family.peers ?? {}).map(([peer, { state }]) => ({ peer, established: state === 'Established' })),
  )
}

// ----------------------------------------------------------------------------------------------------------- GoBGP

export function gobgpConfig(plan: RouterPlan): string {
  const neighbor = (ip: Ip, local: Ip, peer: RouterPeer) => `
[[neighbors]]
  [neighbors.config]
    neighbor-address = "${ip.key}"
    peer-as = ${peer.as}
  [neighbors.transport.config]
    local-address = "${local.key}"
  [neighbors.timers.config]
    connect-retry = 3
    idle-hold-time-after-reset = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 120
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv${ip.family}-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
`
  const sessions = plan.peers.flatMap(peer => [
    neighbor(peer.ip, peer.source ?? plan.ip, peer),
    ...(plan.ip6 && peer.ip6 ? [neighbor(peer.ip6, peer.source6 ?? plan.ip6, peer)] : []),
  ])
  return `[global.config]
  as = ${plan.as}
  router-id = "${plan.ip.key}"
  local-address-list = ["${plan.ip.key}"${plan.ip6 ? `, "${plan.ip6.key}"` : ''}]
[global.apply-policy.config]
  default-import-policy = "accept-route"
  default-export-policy = "accept-route"
  export-policy-list = ["nothing-to-nodes"]

[[defined-sets.neighbor-sets]]
  neighbor-set-name = "nodes"
  neighbor-info-list = [${plan.peers
    .filter(peer => !peer.exchange)
    .flatMap(peer => [peer.ip, ...(peer.ip6 ? [peer.ip6] : [])])
    .map(ip => `"${ip.key}"`)
    .join(', ')}]

[[policy-definitions]]
  name = "nothing-to-nodes"
  [[policy-definitions.statements]]
    name = "reject"
    [policy-definitions.statements.conditions.match-neighbor-set]
      neighbor-set = "nodes"
    [policy-definitions.statements.actions]
      route-disposition = "reject-route"
${sessions.join('')}`
}

// ------------------------------------------------------------------------------------------------------------ ours

function ownProgram(name: string): string {
  return join(buildRoot, 'bin', name)
}

function controlSocket(plan: RouterPlan): string {
  return `${plan.folder}/manx-bgp.sock`
}

/** Settings of `manx-bgp` (docs/embed.md), as JSON. Its kernel routes bear the number of BGP, as other routers' do. */
export function manxConfig(plan: RouterPlan): string {
  const peer = ({ name, as, exchange, bfd }: RouterPeer, address: Ip, source: Ip | undefined) => ({
    name: address.family === 6 ? `${name}-v6` : name,
    address: address.key,
    as,
    source: source?.key,
    connectRetrySeconds: 3,
    import: 'all',
    ...(exchange ? { export: 'all', nextHop: 'self' } : { export: 'none' }),
    ...(bfd && { bfd: true }),
  })
  const settings = {
    as: plan.as,
    routerId: plan.ip.key,
    fib: { protocol: bgpProtocol, metric: 32 },
    peers: plan.peers.flatMap(one => [
      peer(one, one.ip, one.source ?? plan.ip),
      ...(plan.ip6 && one.ip6 ? [peer(one, one.ip6, one.source6 ?? plan.ip6)] : []),
    ]),
  }
  return `${JSON.stringify(settings, null, 2)}\n`
}
