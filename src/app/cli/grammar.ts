/**
 * The command line as a table: verbs, their arguments, flags, examples, and where their code is.
 *
 * main.ts builds the parser from it, help.ts the texts, completion.ts the shells' tables. A verb's code is loaded only
 * when it runs, so that help and mistakes answer at once (operator-experience.md 2). `lab` has a grammar of its own and
 * gets its words as they are.
 */

import type { Verb } from './world.ts'

export interface FlagRow {
  /** As commander writes them: `-f, --filename <file>`. */
  readonly flags: string
  readonly about: string
  /** Words that complete it. */
  readonly values?: readonly string[]
  /** Understood, not shown. */
  readonly hidden?: boolean
}

export interface VerbRow {
  readonly words: string
  readonly args?: string
  readonly group: 'look' | 'resources' | 'bgp' | 'ipam' | 'node' | 'store' | 'self'
  readonly about: string
  readonly examples: readonly string[]
  readonly flags?: readonly FlagRow[]
  readonly load: () => Promise<Verb>
}

export const globalFlags: readonly FlagRow[] = [
  {
    flags: '-o, --output <form>',
    about: 'table (ps), wide, json, yaml, name; views also jsonl; get custom-columns=, go-template=',
    values: ['table', 'ps', 'wide', 'json', 'yaml', 'jsonl', 'name'],
  },
  { flags: '-c, --config <file>', about: 'settings file; else MANXCTL_CONFIG, /etc/manx/manxctl.yaml' },
  { flags: '-n, --namespace <name>', about: 'namespace of namespaced kinds; default `default`' },
  { flags: '-l, --log-level <level>', about: 'panic, fatal, error, warn, info or debug' },
  { flags: '--timeout <duration>', about: 'give up on a store or agent that does not answer; default 5s' },
  { flags: '-y, --yes', about: 'answer questions with yes' },
  { flags: '-q, --quiet', about: 'say nothing on success' },
  { flags: '--color <when>', about: 'auto, always or never', values: ['auto', 'always', 'never'] },
  { flags: '--no-headers', about: 'tables without their first line' },
  { flags: '--node <name>', about: 'whose agent answers; default the local one' },
  { flags: '--at <socket>', about: 'socket of the agent to ask' },
  { flags: '--context <name>', about: 'as calicoctl; of no effect here', hidden: true },
  { flags: '--allow-version-mismatch', about: 'as calicoctl; of no effect here', hidden: true },
]

const familyFlag: FlagRow = { flags: '--family <n>', about: 'only IPv4 or IPv6', values: ['4', '6'] }
const allFlag: FlagRow = { flags: '--all', about: 'on a terminal too, more than 1,000 rows' }
const filename: FlagRow = { flags: '-f, --filename <file>', about: 'file, folder or - for stdin' }
const recursive: FlagRow = { flags: '-R, --recursive', about: 'folders below a folder too' }
const skipEmpty: FlagRow = { flags: '--skip-empty', about: 'no error when there is nothing in the file' }
const keepGoing: FlagRow = { flags: '--keep-going', about: 'commit the good documents although others are bad' }
const dryRun: FlagRow = {
  flags: '--dry-run <how>',
  about: 'write nothing: server (against the store) or client (as validate)',
  values: ['server', 'client'],
}
const exitCode: FlagRow = { flags: '--exit-code', about: 'with --dry-run: exit 3 if something would change' }
const writing = [filename, recursive, skipEmpty, keepGoing, dryRun, exitCode]

export const verbs: readonly VerbRow[] = [
  {
    words: 'status',
    group: 'look',
    about: 'Is the cluster all right? Verdict first, from the store alone',
    examples: ['manxctl status', 'manxctl status -o json'],
    flags: [{ flags: '--all', about: 'more than ten findings' }],
    load: async () => (await import('./status.ts')).status,
  },
  {
    words: 'trace',
    args: '<from> <to>',
    group: 'look',
    about: 'Which route, policy and rule decide on a connection, by the records and by the kernel; exit 3: denied',
    examples: [
      'manxctl trace shop/web shop/db:5432/tcp',
      'manxctl trace node-a shop/db',
      'manxctl trace fd00:48::5 [fd00:48::70]:53/udp',
    ],
    load: async () => (await import('./trace.ts')).trace,
  },
  {
    words: 'policy show',
    args: '<endpoint>',
    group: 'look',
    about: 'What binds a pod or host endpoint, tier by tier in order, with what its rules have counted',
    examples: ['manxctl policy show shop/db', 'manxctl policy show shop/db --rules'],
    flags: [{ flags: '--rules', about: 'each rule with its counter' }],
    load: async () => (await import('./policy.ts')).showPolicy,
  },
  {
    words: 'get',
    args: '[kind] [names...]',
    group: 'resources',
    about: 'Show resources: all of a kind, by name, or those of a file',
    examples: ['manxctl get ippools', 'manxctl get node node-a -o yaml', 'manxctl get wep -A -o wide'],
    flags: [
      filename,
      recursive,
      skipEmpty,
      { flags: '-A, --all-namespaces', about: 'resources of every namespace' },
      { flags: '-a', about: 'as -A', hidden: true },
      { flags: '--selector <selector>', about: `those whose labels fit: "rack == 'r1'"` },
      { flags: '-w, --watch', about: 'then every change as a row (or -o json document), until interrupted' },
      { flags: '--export', about: 'without what only this cluster knows (named resources)' },
    ],
    load: async () => (await import('./get.ts')).get,
  },
  {
    words: 'create',
    group: 'resources',
    about: 'Create the resources of files; an error for those that exist',
    examples: ['manxctl create -f pools.yaml', 'manxctl create -f site/ -R', 'manxctl create -f - < pool.yaml'],
    flags: [...writing, { flags: '--skip-exists', about: 'no error for resources that exist; they stay as they are' }],
    load: async () => (await import('./write.ts')).create,
  },
  {
    words: 'apply',
    group: 'resources',
    about: 'Create the resources of files, or change them to what the files say',
    examples: ['manxctl apply -f pools.yaml', 'manxctl apply -f site/', 'manxctl apply --dry-run -f site/'],
    flags: writing,
    load: async () => (await import('./write.ts')).apply,
  },
  {
    words: 'replace',
    group: 'resources',
    about: 'Change resources that exist to what the files say',
    examples: ['manxctl replace -f pools.yaml', 'manxctl get bgppeer gw -o yaml | manxctl replace -f -'],
    flags: writing,
    load: async () => (await import('./write.ts')).replace,
  },
  {
    words: 'delete',
    args: '[kind] [names...]',
    group: 'resources',
    about: 'Delete resources by kind and name, or those of files, and what belongs to them',
    examples: ['manxctl delete bgppeer gw', 'manxctl delete -f site/', 'manxctl delete node node-c'],
    flags: [...writing, { flags: '-s, --skip-not-exists', about: 'no error for resources that are not there' }],
    load: async () => (await import('./delete.ts')).remove,
  },
  {
    words: 'patch',
    args: '<kind> <name>',
    group: 'resources',
    about: 'Change some fields of one resource',
    examples: [`manxctl patch ippool pods-v4 -p '{"spec":{"natOutgoing":true}}'`],
    flags: [
      { flags: '-p, --patch <json>', about: 'the fields to change, as JSON or YAML; null takes one away' },
      {
        flags: '-t, --type <type>',
        about: 'strategic, merge or json (RFC 6902)',
        values: ['strategic', 'merge', 'json'],
      },
    ],
    load: async () => (await import('./patch.ts')).patch,
  },
  {
    words: 'label',
    args: '<kind> <name> <label>',
    group: 'resources',
    about: 'Set or remove one label of a resource',
    examples: ['manxctl label node node-a rack=r1', 'manxctl label node node-a rack --remove'],
    flags: [
      { flags: '--overwrite', about: 'also where the label has another value' },
      { flags: '--remove', about: 'take the label away' },
    ],
    load: async () => (await import('./label.ts')).label,
  },
  {
    words: 'validate',
    group: 'resources',
    about: 'Check files without a store',
    examples: ['manxctl validate -f site/', 'manxctl validate -f - < pool.yaml'],
    flags: [filename, recursive, skipEmpty],
    load: async () => (await import('./write.ts')).validateFiles,
  },
  {
    words: 'bgp peers',
    group: 'bgp',
    about: 'Sessions of an agent, those that are down first, each with its cause',
    examples: ['manxctl bgp peers', 'manxctl bgp peers -o json', 'manxctl bgp peers --at unix:/run/manx/manxd.sock'],
    load: async () => (await import('./bgp.ts')).peers,
  },
  {
    words: 'bgp peer',
    args: '<peer>',
    group: 'bgp',
    about: 'One session: cause, remedy, settings, routes, history',
    examples: ['manxctl bgp peer node-c', 'manxctl bgp peer 10.0.0.1'],
    load: async () => (await import('./bgp.ts')).peer,
  },
  {
    words: 'bgp routes',
    args: '[prefix]',
    group: 'bgp',
    about: 'The table: paths in use, those that lost, those refused, and the kernel',
    examples: ['manxctl bgp routes', 'manxctl bgp routes 10.48.0.0/16', 'manxctl bgp routes -o jsonl | jq .prefix'],
    flags: [{ flags: '--best', about: 'only the paths in use' }, familyFlag, allFlag],
    load: async () => (await import('./bgp-routes.ts')).routes,
  },
  {
    words: 'bgp route',
    args: '<address>',
    group: 'bgp',
    about: 'The route that an address takes; exit 3 when there is none',
    examples: ['manxctl bgp route 10.48.1.70', 'manxctl bgp route fd00:48::7'],
    load: async () => (await import('./bgp-routes.ts')).route,
  },
  {
    words: 'bgp received',
    args: '<peer>',
    group: 'bgp',
    about: 'What a peer announced, as it did, and what became of it',
    examples: ['manxctl bgp received gateway', 'manxctl bgp received 10.0.0.1 -o json'],
    flags: [familyFlag, allFlag],
    load: async () => (await import('./bgp-routes.ts')).received,
  },
  {
    words: 'bgp advertised',
    args: '<peer>',
    group: 'bgp',
    about: 'What a peer is sent, as it is sent',
    examples: ['manxctl bgp advertised gateway', 'manxctl bgp advertised node-b --family 6'],
    flags: [familyFlag, allFlag],
    load: async () => (await import('./bgp-routes.ts')).advertised,
  },
  {
    words: 'bgp explain',
    args: '<prefix>',
    group: 'bgp',
    about: 'Why a prefix is routed as it is: every path, every peer, the kernel; exit 3 without a path',
    examples: ['manxctl bgp explain 10.48.1.64/26', 'manxctl bgp explain 10.48.1.64/26 -o json'],
    load: async () => (await import('./bgp-explain.ts')).explain,
  },
  {
    words: 'bgp history',
    args: '<peer>',
    group: 'bgp',
    about: 'What happened to a session, the latest first',
    examples: ['manxctl bgp history node-c', 'manxctl bgp history gateway -o jsonl'],
    load: async () => (await import('./bgp.ts')).history,
  },
  {
    words: 'bgp reset',
    args: '<peer>',
    group: 'bgp',
    about: 'End a session and begin it anew, or only ask for its routes again',
    examples: ['manxctl bgp reset gateway --soft', 'manxctl bgp reset 10.0.0.13'],
    flags: [{ flags: '--soft', about: 'keep the session; the peer sends its routes again (route refresh)' }],
    load: async () => (await import('./bgp.ts')).reset,
  },
  {
    words: 'node status',
    group: 'node',
    about: 'BGP sessions of this node, as calicoctl shows them, with causes below',
    examples: ['manxctl node status', 'manxctl node status -o wide'],
    load: async () => (await import('./node.ts')).nodeStatus,
  },
  {
    words: 'ipam show',
    group: 'ipam',
    about: 'How full pools and blocks are; who has an address',
    examples: ['manxctl ipam show', 'manxctl ipam show --show-blocks', 'manxctl ipam show --ip 10.48.0.5'],
    flags: [
      { flags: '--ip <address>', about: 'who has this address' },
      { flags: '--show-blocks', about: 'each block too' },
      { flags: '--show-borrowed', about: 'addresses used by another node than the owner of their block' },
      { flags: '--show-configuration', about: 'settings of IPAM' },
    ],
    load: async () => (await import('./ipam.ts')).show,
  },
  {
    words: 'ipam check',
    group: 'ipam',
    about: 'Are blocks, claims, addresses and handles as they should be? Exit 3 if not',
    examples: ['manxctl ipam check', 'manxctl ipam check --fix', 'manxctl ipam check -o report.json'],
    flags: [
      { flags: '--show-all-ips', about: 'every address that was looked at' },
      { flags: '--show-problem-ips', about: 'every address with a problem, those outside pools too' },
      { flags: '--fix', about: 'put right what is safe while everything runs' },
      { flags: '--kubeconfig <file>', about: 'as calicoctl; of no effect here', hidden: true },
    ],
    load: async () => (await import('./ipam-check.ts')).check,
  },
  {
    words: 'ipam release',
    group: 'ipam',
    about: 'Free addresses that nothing uses any more',
    examples: ['manxctl ipam release --ip 10.48.0.5', 'manxctl ipam release --from-report=a.json --from-report=b.json'],
    flags: [
      { flags: '--ip <address>', about: 'the address' },
      { flags: '--from-report <file...>', about: 'what every one of these reports of `ipam check -o` calls leaked' },
      { flags: '--force', about: 'although the store is not locked, or the report of another version' },
    ],
    load: async () => (await import('./ipam.ts')).release,
  },
  {
    words: 'ipam split',
    args: '<parts>',
    group: 'ipam',
    about: 'Split a pool into 2, 4, 8... pools while the store is locked; addresses stay',
    examples: ['manxctl ipam split 4 --name pods-v4', 'manxctl ipam split 2 --cidr 10.48.0.0/16'],
    flags: [
      { flags: '--name <pool>', about: 'the pool by name' },
      { flags: '--cidr <cidr>', about: 'the pool by CIDR' },
    ],
    load: async () => (await import('./ipam-pools.ts')).split,
  },
  {
    words: 'ipam resize',
    group: 'ipam',
    about: 'Give a pool another block size, step by step; run it again after each step',
    examples: ['manxctl ipam resize --name pods-v4 --block-size 28'],
    flags: [
      { flags: '--name <pool>', about: 'the pool by name' },
      { flags: '--cidr <cidr>', about: 'the pool by CIDR' },
      { flags: '--block-size <length>', about: 'prefix length of its blocks: 20 to 32, or 116 to 128' },
    ],
    load: async () => (await import('./ipam-pools.ts')).resize,
  },
  {
    words: 'ipam configure',
    group: 'ipam',
    about: 'Change settings of IPAM',
    examples: ['manxctl ipam configure --strictaffinity=true', 'manxctl ipam configure --max-blocks-per-host 40'],
    flags: [
      { flags: '--strictaffinity <bool>', about: 'nodes never borrow addresses', values: ['true', 'false'] },
      { flags: '--max-blocks-per-host <n>', about: 'blocks one node may own; 0: the built-in limit' },
      { flags: '--ip-cooldown-seconds <n>', about: 'how long a released address stays unused' },
      {
        flags: '--kubevirt-ip-persistence <mode>',
        about: 'Enabled or Disabled',
        values: ['Enabled', 'Disabled'],
      },
    ],
    load: async () => (await import('./ipam.ts')).configure,
  },
  {
    words: 'datastore migrate lock',
    group: 'store',
    about: 'Lock the store: no pod starts until it is unlocked',
    examples: ['manxctl datastore migrate lock'],
    load: async () => (await import('./datastore.ts')).lock,
  },
  {
    words: 'datastore migrate unlock',
    group: 'store',
    about: 'Unlock the store',
    examples: ['manxctl datastore migrate unlock'],
    load: async () => (await import('./datastore.ts')).unlock,
  },
  {
    words: 'version',
    group: 'self',
    about: 'Versions of this program and of the cluster',
    examples: ['manxctl version', 'manxctl version --client'],
    flags: [
      { flags: '--client', about: 'of this program alone' },
      { flags: '--poll <duration>', about: 'as calicoctl; of no effect here', hidden: true },
    ],
    load: async () => (await import('./version.ts')).showVersion,
  },
  {
    words: 'config view',
    group: 'self',
    about: 'Each setting, its value and where it comes from',
    examples: ['manxctl config view', 'manxctl config view -o json'],
    load: async () => (await import('./config-view.ts')).configView,
  },
  {
    words: 'lab',
    args: '[words...]',
    group: 'self',
    about: 'A cluster of network namespaces on this machine; its own verbs: manxctl lab help',
    examples: ['manxctl lab up examples/lab/trio.yaml', 'manxctl lab status', 'manxctl lab down'],
    load: async () => {
      const { runLab } = await import('../lab/verbs.ts')
      return call => runLab(call.args)
    },
  },
  {
    words: 'completion',
    args: '<shell> [words...]',
    group: 'self',
    about: 'Completion for bash, zsh or fish',
    examples: ['source <(manxctl completion bash)', 'manxctl completion fish | source'],
    load: async () => (await import('./completion.ts')).completion,
  },
  {
    words: 'help',
    args: '[words...]',
    group: 'self',
    about: 'Help on a command, a code of an error, or the kinds',
    examples: ['manxctl help apply', 'manxctl help B01', 'manxctl help kinds'],
    load: async () => (await import('./help.ts')).help,
  },
]

/** The row whose words the arguments begin with, and how many they are. */
export function verbOf(words: readonly string[]): { readonly row: VerbRow; readonly count: number } | undefined {
  for (let count = Math.min(3, words.length); count > 0; count--) {
    const row = verbs.find(one => one.words === words.slice(0, count).join(' '))
    if (row) return { row, count }
  }
  return undefined
}

/** `-f, --filename <file>` -> [`-f`, `--filename`]. */
export function spellings({ flags }: FlagRow): string[] {
  return flags.split(/[ ,]+/).filter(word => word.startsWith('-'))
}
