/**
 * The catalogue: every code that Manx prints, what it means in one line, and what to do (operator-experience.md 4, 5).
 *
 * One table for errors of the CLI, `node status`, /readyz, `manxctl help CODE` and the manual. Codes are grouped by their
 * letter: U usage, D documents, A agent, K kernel, N node, S store, B sessions, R routes, I addresses, P policy, C pods.
 * Cores return causes as data; `causeCodes` gives each cause of a session its code.
 */

import type { CauseCode } from '../bgp/index.ts'

export interface Fault {
  readonly code: string
  readonly about: string
  readonly remedy: string
}

const rows: readonly (readonly [code: string, about: string, remedy: string])[] = [
  ['U01', 'the command line of `manxctl lab` is not understood', 'manxctl lab --help'],
  ['U02', 'a command, flag or argument is not known', 'take the nearest word the message offers; manxctl help'],
  ['U03', 'a file is not there, cannot be read, or holds no resource', 'check the path; --skip-empty for empty files'],
  ['U06', 'a template uses what this program does not render', 'fields, range, if, join and printf; else -o json'],
  ['D01', 'a file is not YAML or JSON', 'correct the line that is shown; quote values that begin with a sign'],
  ['D02', 'the kind is not known', 'manxctl help kinds'],
  ['D03', 'the apiVersion is not that of Calico resources', 'write `projectcalico.org/v3`'],
  ['D04', 'a field is not known, or stands in the wrong place', 'take the nearest field the message offers'],
  ['D05', 'a value is not allowed for its field', 'take one of the values the message names'],
  ['D06', 'two pools overlap', 'choose a free range; the message names one'],
  [
    'D07',
    'a field cannot change once blocks exist or others rely on it',
    'migrate by a second pool: create it, disable the first (`disabled: true`), restart the pods, delete the first',
  ],
  ['D08', 'a selector cannot be read', 'the caret shows where; labels compare as `app == "web"`'],
  ['D09', 'a resource names another that does not exist', 'create it first, or put both into the files'],
  ['D10', 'two fields exclude each other', 'keep one'],
  ['D11', 'a namespace where none belongs, or two that differ', 'leave out -n, or the namespace in the file'],
  ['D12', 'a resource exists that should not, or the other way round', 'manxctl apply creates or changes as needed'],
  [
    'D13',
    'somebody changed the resource since it was read',
    'read it again (manxctl get ... -o yaml), or drop `resourceVersion`',
  ],
  ['D14', 'the change would lock you out of a host', 'add a rule that lets you in'],
  ['A00', 'an error without a code of its own, or a bug', 'repeat it with -l debug and report what it prints'],
  ['A01', 'the agent of this host is not running', 'systemctl start manxd; what keeps it from running: manxd --check'],
  ['A02', 'a right of the process is missing', 'run it as root, or give it CAP_NET_ADMIN'],
  ['A03', 'agents of different versions run in one cluster', 'upgrade the older ones'],
  ['A04', 'the agent gets too little CPU time', 'raise its quota; Nice=-5'],
  ['A05', "Calico's own Felix runs on this host", 'stop calico-node here first'],
  ['A06', 'an agent already runs with this run folder', 'stop it first, or set MANX_RUN_DIR'],
  ['A07', 'the port of /readyz and the views is taken', 'set FELIX_HEALTHPORT, or end what holds it'],
  ['K01', 'the kernel does not forward', 'sysctl -w net.ipv4.ip_forward=1, and the file that switched it off'],
  ['K02', 'strict reverse path filtering drops packets', 'sysctl -w net.ipv4.conf.IF.rp_filter=2'],
  ['K03', 'a pod cannot resolve its gateway', 'the agent repairs it; find who switches proxy_arp off'],
  ['K04', 'the kernel has no ipset', 'apt install ipset'],
  ['K05', 'an iptables match is missing', 'install the package with the kernel modules'],
  ['K06', 'two back ends of iptables are in use', 'move all to one, or set `iptablesBackend`'],
  ['K07', 'somebody holds the iptables lock', 'stop that program'],
  ['K08', 'the connection table is full', 'sysctl -w net.netfilter.nf_conntrack_max=...'],
  [
    'K10',
    'a firewall of this host drops forwarded pod traffic',
    'put the pool into its trusted zone; `chainInsertMode: Insert`',
  ],
  ['K11', 'large packets vanish', 'lower the MTU of the pods or of the tunnel'],
  ['K12', 'the tunnel is blocked between nodes', 'open UDP 4789 between nodes'],
  ['N01', 'two machines use one node name', 'NODENAME= on one of them'],
  ['N02', 'two nodes have one router id', 'CALICO_ROUTER_ID= on one of them'],
  ['N03', 'the node address is not the one that peers are reached by', 'IP_AUTODETECTION_METHOD=interface=NAME'],
  ['N04', 'another node or machine has this address', 'change one of the two'],
  ['N05', 'clocks of nodes differ', 'start NTP'],
  [
    'N06',
    'this host was another node, which still owns blocks or endpoints',
    'keep the old NODENAME, or delete that node',
  ],
  ['S01', 'the store is slow', 'look at the disk of the slow member; etcdctl check perf'],
  ['S02', 'the store has no quorum', 'start one of its members; pods keep running meanwhile'],
  ['S03', 'the store does not answer', 'settings and where they come from: manxctl config view'],
  ['S04', 'the store refuses this user', 'grant it, or use certificates'],
  ['S05', 'the certificate of the store does not fit, or will end soon', 'use the name it is made for; renew it'],
  ['S06', 'history was compacted under a watch', 'compact every hour at most'],
  ['S07', 'the store is full', 'compact, defragment, disarm'],
  ['S08', 'the store is locked: no pod can start', 'manxctl datastore migrate unlock'],
  ['B01', 'a peer does not answer on TCP 179', 'open TCP 179 both ways'],
  ['B02', 'a peer refuses TCP 179', 'start BGP there, with this node as a neighbour'],
  ['B03', 'there is no route to a peer', 'check cable, VLAN and address; `reachableBy`'],
  ['B04', 'a peer says another AS number than configured', 'correct `asNumber`, or the router'],
  ['B05', 'a peer refuses our AS number', 'correct its `remote-as`, or set `localASNumber`'],
  ['B06', 'passwords of a session differ', 'set both anew'],
  ['B07', 'one side of a session signs and the other does not', 'set a password on both, or on neither'],
  ['B08', 'packets of a peer are dropped by `ttlSecurity`', 'raise it by the hops between, or use it on both sides'],
  ['B09', 'a peer fell silent', 'look at that node or router'],
  ['B10', 'this agent was too slow for its session', 'as A04; a longer hold time; BFD'],
  ['B11', 'a peer sent more prefixes than allowed', 'filter there, or raise `maxPrefix`'],
  ['B12', 'an OPEN or UPDATE was refused', 'the message says which capability or attribute'],
  ['B13', 'a peer does not expect us', 'add this node as a neighbour there; check the source address'],
  ['B14', 'the BGP port is taken', 'stop that program, or set `listenPort`'],
  ['B15', 'a session is up and brings no routes', 'no bgp ebgp-requires-policy, or a route map (RFC 8212)'],
  ['B16', 'BFD of a session fails', 'slower timers (300 ms x 5); look at the link'],
  ['B17', 'the password of a session cannot be used', 'create the secret; raise net.core.optmem_max'],
  ['R01', 'a next hop cannot be reached', 'next-hop-self at the peer, or a static route'],
  ['R02', 'a route is not in the kernel', 'the remedy of the error that the message names'],
  ['R03', 'another route wins over ours', 'delete it, or use another range'],
  ['R04', 'the blackhole of an own block is missing', 'the agent repairs it; find who deletes it'],
  [
    'R05',
    'something removes our routes again and again',
    'ManageForeignRoutes=no; unmanaged-devices=interface-name:cali*',
  ],
  ['I01', 'a pool fills up', 'add a second pool; look for leaked addresses'],
  [
    'I02',
    'no pool has a free address for a pod',
    'add a pool, or enable one; see how full they are: manxctl ipam show --show-blocks',
  ],
  ['I03', 'a node has as many blocks as it may', 'manxctl ipam configure --max-blocks-per-host N'],
  [
    'I04',
    'strict affinity keeps a node from free addresses',
    'add a pool, or manxctl ipam configure --strictaffinity=false',
  ],
  ['I05', 'addresses are allocated and unused', 'the node frees them after a while; manxctl ipam release --ip ADDRESS'],
  ['I06', 'a pool overlaps another network', 'disable it and move the pods'],
  ['P01', 'a policy denies the connection', 'add a rule that allows it'],
  ['P02', 'an endpoint has neither profile nor policy: all is denied', 'give it a profile or a policy'],
  ['P03', 'a host endpoint would cut its node off', 'put the failsafe ports back'],
  ['P04', 'rules in the kernel were changed by others', 'find who: K06, K04'],
  ['P05', 'the kernel refuses a rule', 'K04, K05'],
  ['C01', 'another CNI configuration comes before ours', 'remove it'],
  ['C02', 'links of pods that are gone pile up', 'the agent removes them; ip link del NAME'],
  ['C04', 'an endpoint lacks its link, route or chain', 'restart the pod'],
]

export const faults: readonly Fault[] = rows.map(([code, about, remedy]) => ({ code, about, remedy }))

const byCode = new Map(faults.map(fault => [fault.code, fault]))

export function faultOf(code: string): Fault | undefined {
  return byCode.get(code.toUpperCase())
}

/** Codes of the causes why a session is not up; absent: no fault. */
export const causeCodes: Readonly<Partial<Record<CauseCode, string>>> = {
  'no-route': 'B03',
  refused: 'B02',
  'no-answer': 'B01',
  'password-suspected': 'B06',
  'password-missing': 'B17',
  'ttl-suspected': 'B08',
  'wrong-as': 'B04',
  'our-as-refused': 'B05',
  'open-rejected': 'B12',
  'unknown-there': 'B13',
  'closed-early': 'B13',
  'hold-expired': 'B09',
  'local-stall': 'B10',
  'bfd-down': 'B16',
  'bfd-waiting': 'B16',
  'max-prefix': 'B11',
  'update-error': 'B12',
  config: 'B12',
}
