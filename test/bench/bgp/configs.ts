/**
 * A scene in each daemon's own language. The same for all: every neighbour connects to us, accept everything and announce
 * everything to everybody (senders included), or the filters of `terms`; hold time as asked, and kernel
 * routes where the scene says so.
 *
 * Without filters and over IPv4 these are the settings of the shared load tool (its gen.sh).
 */

import type { PeerOptions, PolicySettings, SpeakerSettings } from '../../../src/app/speaker/settings.ts'
import { daemonAddress, localAs, type Neighbor, type Scene, terms } from './scene.ts'

/** Settings of manx-bgp: JSON, which is YAML too. */
export function manxConfig(scene: Scene): string {
  const open: PeerOptions = scene.filters ? { import: 'in', export: 'out' } : { import: 'all', export: 'all' }
  const all: PeerOptions = {
    passive: true,
    holdSeconds: scene.holdSeconds,
    families: [scene.family === 4 ? 'ipv4' : 'ipv6'],
    ...(scene.reflects && { client: true }),
    ...open,
  }
  const at = daemonAddress(scene.family)
  const settings: SpeakerSettings = {
    as: localAs,
    routerId: '10.0.0.1',
    listen: [scene.family === 4 ? at : `[${at}]`],
    groups: { all, silent: { ...all, export: 'none' } },
    ...(scene.kernel && { fib: true }),
    ...(scene.filters && { policies: manxFilters(scene) }),
    peers: scene.neighbors.map(({ name, address, as, silent }) => ({
      name,
      address,
      as,
      group: silent ? 'silent' : 'all',
    })),
  }
  return `${JSON.stringify(settings, undefined, 1)}\n`
}

function manxFilters({ family }: Scene): Record<string, PolicySettings> {
  const within = (prefixes: readonly string[]) => prefixes.map(prefix => `${prefix} le ${family === 4 ? 32 : 128}`)
  return {
    in: {
      rules: [
        { name: 'pools', prefixes: within(terms.pools[family]), action: 'reject' },
        { name: 'refused', communities: [terms.refused], action: 'reject' },
        { name: 'rest', set: { localPref: terms.localPref }, action: 'accept' },
      ],
    },
    out: {
      rules: [
        { name: 'martians', prefixes: within(terms.martians[family]), action: 'reject' },
        { name: 'kept', communities: [terms.kept], action: 'reject' },
        { name: 'rest', set: { addCommunities: [terms.mark] }, action: 'accept' },
      ],
    },
  }
}

export function birdConfig(scene: Scene): string {
  const { family, reflects, filters } = scene
  const channel = family === 4 ? 'ipv4' : 'ipv6'
  const imports = filters ? 'filter in_all' : 'all'
  const exports = filters ? 'filter out_all' : reflects ? 'where source = RTS_BGP' : 'all'
  const session = (exported: string) =>
    `{ local ${daemonAddress(family)} as ${localAs}; passive; hold time ${scene.holdSeconds}; ${reflects ? 'rr client; ' : ''}` +
    `${channel} { import ${imports}; export ${exported}; }; }`
  return `router id 10.0.0.1;
log stderr { warning, error, fatal, bug };
protocol device { }
${scene.kernel ? `protocol kernel { ${channel} { export all; }; }` : ''}
${reflects ? `protocol direct { ${channel}; interface "dum0"; }` : ''}
${filters ? birdFilters(scene) : ''}
template bgp all_of_it ${session(exports)}
template bgp nothing ${session('none')}
${each(scene, ({ name, address, as, silent }) => `protocol bgp ${name} from ${silent ? 'nothing' : 'all_of_it'} { neighbor ${address} as ${as}; }`)}
`
}

function birdFilters({ family }: Scene): string {
  const within = (prefixes: readonly string[]) => `[ ${prefixes.map(prefix => `${prefix}+`).join(', ')} ]`
  const pair = (community: string) => `(${community.replace(':', ', ')})`
  return `filter in_all {
  if net ~ ${within(terms.pools[family])} then reject;
  if ${pair(terms.refused)} ~ bgp_community then reject;
  bgp_local_pref = ${terms.localPref};
  accept;
}
filter out_all {
  if net ~ ${within(terms.martians[family])} then reject;
  if ${pair(terms.kept)} ~ bgp_community then reject;
  bgp_community.add(${pair(terms.mark)});
  accept;
}`
}

export function frrConfig(scene: Scene): string {
  const { family, reflects, filters } = scene
  const [ip, longest] = family === 4 ? ['ip', 32] : ['ipv6', 128]
  const list = (name: string, prefixes: readonly string[]) =>
    prefixes.map((prefix, i) => `${ip} prefix-list ${name} seq ${i + 1} permit ${prefix} le ${longest}`).join('\n')
  const group = ({ silent }: Neighbor) => (silent ? 'SILENT' : 'ALL')
  return `frr defaults traditional
log stdout critical
${list('pools', terms.pools[family])}
${list('martians', terms.martians[family])}
${ip} prefix-list nothing seq 1 deny ${family === 4 ? '0.0.0.0/0' : '::/0'} le ${longest}
bgp community-list standard refused seq 1 permit ${terms.refused}
bgp community-list standard kept seq 1 permit ${terms.kept}
route-map in deny 10
 match ${ip} address prefix-list pools
route-map in deny 20
 match community refused
route-map in permit 30
 set local-preference ${terms.localPref}
route-map out deny 10
 match ${ip} address prefix-list martians
route-map out deny 20
 match community kept
route-map out permit 30
 set community ${terms.mark} additive
router bgp ${localAs}
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
${['ALL', 'SILENT'].map(name => ` neighbor ${name} peer-group\n${reflects ? ` neighbor ${name} remote-as ${localAs}\n` : ''} neighbor ${name} passive\n neighbor ${name} timers ${Math.round(scene.holdSeconds / 3)} ${scene.holdSeconds}`).join('\n')}
${each(scene, one => `${reflects ? '' : ` neighbor ${one.address} remote-as ${one.as}\n`} neighbor ${one.address} peer-group ${group(one)}`)}
 address-family ${family === 4 ? 'ipv4' : 'ipv6'} unicast
${['ALL', 'SILENT'].map(name => `  neighbor ${name} activate\n${reflects ? `  neighbor ${name} route-reflector-client\n` : ''}${filters ? `  neighbor ${name} route-map in in\n  neighbor ${name} route-map out out\n` : ''}`).join('')}  neighbor SILENT prefix-list nothing out
 exit-address-family
`
}

export function openbgpdConfig(scene: Scene, socket: string): string {
  const { family, reflects, filters } = scene
  const within = (prefixes: readonly string[]) =>
    `prefix { ${prefixes.map(prefix => `${prefix} or-longer`).join(', ')} }`
  const group = (name: string, members: readonly Neighbor[]) =>
    members.length === 0
      ? ''
      : `group "${name}" {
 passive
 announce IPv4 ${family === 4 ? 'unicast' : 'none'}
 announce IPv6 ${family === 6 ? 'unicast' : 'none'}
${reflects ? ` remote-as ${localAs}\n route-reflector\n` : ''}${members.map(({ name: of, address, as }) => ` neighbor ${address} { ${reflects ? `descr "${of}"` : `remote-as ${as}`} }`).join('\n')}
}`
  const rules = filters
    ? `allow from any set localpref ${terms.localPref}
deny quick from any ${within(terms.pools[family])}
deny quick from any community ${terms.refused}
allow to any set community ${terms.mark}
deny quick to any ${within(terms.martians[family])}
deny quick to any community ${terms.kept}`
    : 'allow from any\nallow to any'
  return `AS ${localAs}
router-id 10.0.0.1
listen on ${daemonAddress(family)}
fib-update no
holdtime ${scene.holdSeconds}
socket "${socket}"
${group(
  'all',
  scene.neighbors.filter(({ silent }) => !silent),
)}
${group(
  'silent',
  scene.neighbors.filter(({ silent }) => silent),
)}
${rules}
${scene.neighbors.some(({ silent }) => silent) ? 'deny to group "silent"' : ''}
`
}

export function gobgpConfig(scene: Scene): string {
  const at = daemonAddress(scene.family)
  const neighbor = ({ address, as }: Neighbor) => `[[neighbors]]
  [neighbors.config]
    neighbor-address = "${address}"
    peer-as = ${as}
  [neighbors.transport.config]
    passive-mode = true
    local-address = "${at}"
  [neighbors.timers.config]
    hold-time = ${scene.holdSeconds}
    keepalive-interval = ${Math.round(scene.holdSeconds / 3)}
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "${scene.family === 4 ? 'ipv4' : 'ipv6'}-unicast"
${scene.reflects ? '  [neighbors.route-reflector.config]\n    route-reflector-client = true\n    route-reflector-cluster-id = "10.0.0.1"\n' : ''}`
  return `[global.config]
  as = ${localAs}
  router-id = "10.0.0.1"
  port = 179
  local-address-list = ["${at}"]
${scene.filters ? gobgpPolicies(scene) : ''}${gobgpSilence(scene)}${each(scene, neighbor)}`
}

function gobgpPolicies({ family }: Scene): string {
  const set = (name: string, prefixes: readonly string[]) =>
    `[[defined-sets.prefix-sets]]
  prefix-set-name = "${name}"
${prefixes.map(prefix => `  [[defined-sets.prefix-sets.prefix-list]]\n    ip-prefix = "${prefix}"\n    masklength-range = "${prefix.split('/')[1]}..${family === 4 ? 32 : 128}"`).join('\n')}`
  const communities = (name: string, community: string) =>
    `[[defined-sets.bgp-defined-sets.community-sets]]\n  community-set-name = "${name}"\n  community-list = ["${community}"]`
  const policy = (name: string, prefixes: string, community: string, change: string) => `[[policy-definitions]]
  name = "${name}"
  [[policy-definitions.statements]]
    name = "${prefixes}"
    [policy-definitions.statements.conditions.match-prefix-set]
      prefix-set = "${prefixes}"
    [policy-definitions.statements.actions]
      route-disposition = "reject-route"
  [[policy-definitions.statements]]
    name = "${community}"
    [policy-definitions.statements.conditions.bgp-conditions.match-community-set]
      community-set = "${community}"
    [policy-definitions.statements.actions]
      route-disposition = "reject-route"
  [[policy-definitions.statements]]
    name = "${name}-rest"
    [policy-definitions.statements.actions]
      route-disposition = "accept-route"
${change}`
  return `${set('pools', terms.pools[family])}
${set('martians', terms.martians[family])}
${communities('refused', terms.refused)}
${communities('kept', terms.kept)}
${policy('in', 'pools', 'refused', `    [policy-definitions.statements.actions.bgp-actions]\n      set-local-pref = ${terms.localPref}`)}
${policy('out', 'martians', 'kept', `    [policy-definitions.statements.actions.bgp-actions.set-community]\n      options = "add"\n      [policy-definitions.statements.actions.bgp-actions.set-community.set-community-method]\n        communities-list = ["${terms.mark}"]`)}
[global.apply-policy.config]
  import-policy-list = ["in"]
  default-import-policy = "accept-route"
  export-policy-list = ["out"]
  default-export-policy = "accept-route"
`
}

/** Its policies are the speaker's, not a neighbour's: what is not announced to some is refused by their addresses. */
function gobgpSilence(scene: Scene): string {
  const silent = scene.neighbors.filter(one => one.silent)
  if (silent.length === 0) return ''
  return `[[defined-sets.neighbor-sets]]
  neighbor-set-name = "silent"
  neighbor-info-list = [${silent.map(({ address }) => `"${address}"`).join(', ')}]
[[policy-definitions]]
  name = "silence"
  [[policy-definitions.statements]]
    name = "to-silent"
    [policy-definitions.statements.conditions.match-neighbor-set]
      neighbor-set = "silent"
    [policy-definitions.statements.actions]
      route-disposition = "reject-route"
[global.apply-policy.config]
  export-policy-list = ["silence"]
  default-export-policy = "accept-route"
`
}

function each(scene: Scene, line: (neighbor: Neighbor) => string): string {
  return scene.neighbors.map(line).join('\n')
}
