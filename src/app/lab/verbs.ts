/**
 * `manxctl lab ...`: the lab's verbs, their arguments, and what they print (operator-experience.md 9).
 *
 * stdout carries the answer, stderr the rest; exit codes are those of section 2. Without root, the same command line is
 * run again inside the user namespace that holds the labs (privilege.ts). Also runs alone: `node src/app/lab/verbs.ts`.
 */

import { existsSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { CodedError, reasonOf } from '../../lib/errors.ts'
import { Ip } from '../../lib/ip.ts'
import { SystemClock } from '../../platform/clock.ts'
import { Lab, type LabDeps, labsLeft, type StatusRow } from './lab.ts'
import { probe } from './ping.ts'
import { findExistingPlace, findPlace } from './privilege.ts'
import { attach } from './process.ts'
import { LabFolder, onlyLab } from './state.ts'
import type { TopologyFailure } from './problems.ts'

const help = `manxctl lab: a cluster of network namespaces on this machine, with real agents, routers and pods

  manxctl lab up FILE                    build what the file says, or complete it
  manxctl lab status [LAB]               members, their state and sessions
  manxctl lab exec NAME -- COMMAND...    run on a node, a router or a pod (NODE/POD)
  manxctl lab shell NAME                 a shell there
  manxctl lab pod add|rm NODE/POD...     attach or detach pods through manx-cni
  manxctl lab pod list                   pods and their addresses
  manxctl lab ping A B [--count 5] [--interval 10]
                                         ask B's addresses from A, lose nothing (milliseconds)
  manxctl lab logs NAME [-f]             an agent's or a router's log
  manxctl lab graph                      who hangs where
  manxctl lab down [LAB|--all]           take it down; also after a crash

  --lab LAB                              which lab, when several are up
  -o, --output table|json                of status and pod list
`

class Usage extends Error {}

interface Words {
  readonly verb: string
  readonly names: readonly string[]
  /** What stands behind \`--\`. */
  readonly command: readonly string[]
  readonly lab: string | undefined
  readonly json: boolean
  readonly all: boolean
  readonly follow: boolean
  readonly count: number
  readonly intervalMs: number
}

/** Runs one command line (without `manxctl lab`) and resolves to its exit code. */
export async function runLab(argv: readonly string[]): Promise<number> {
  try {
    const words = parse(argv)
    if (words.verb === 'help') {
      console.log(help)
      return 0
    }
    const place = words.verb === 'up' ? await findPlace() : (findExistingPlace() ?? (await findPlace()))
    if (place.kind === 'inside')
      return await attach([...place.prefix, process.execPath, ...process.execArgv, ...process.argv.slice(1)])
    return await verbs[words.verb]!(words)
  } catch (error) {
    return complain(error)
  }
}

function parse(argv: readonly string[]): Words {
  const dashes = argv.indexOf('--')
  const own = dashes < 0 ? argv : argv.slice(0, dashes)
  let parsed
  try {
    parsed = parseArgs({
      args: [...own],
      allowPositionals: true,
      options: {
        lab: { type: 'string' },
        output: { type: 'string', short: 'o', default: 'table' },
        all: { type: 'boolean', default: false },
        follow: { type: 'boolean', short: 'f', default: false },
        count: { type: 'string', default: '5' },
        interval: { type: 'string', default: '10' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    })
  } catch (error) {
    throw new Usage(reasonOf(error).split('\n')[0])
  }
  const { values, positionals } = parsed
  const verb = values.help ? 'help' : (positionals[0] ?? 'help')
  if (verb !== 'help' && !Object.hasOwn(verbs, verb)) throw new Usage(`unknown verb \`${verb}\` of manxctl lab`)
  if (values.output !== 'table' && values.output !== 'json')
    throw new Usage(`output \`${values.output}\` is none of table, json`)
  return {
    verb,
    names: positionals.slice(1),
    command: dashes < 0 ? [] : argv.slice(dashes + 1),
    lab: values.lab,
    json: values.output === 'json',
    all: values.all,
    follow: values.follow,
    count: positive('--count', values.count),
    intervalMs: positive('--interval', values.interval),
  }
}

function positive(flag: string, text: string): number {
  const number = Number(text)
  if (!Number.isInteger(number) || number < 1) throw new Usage(`${flag} \`${text}\` is no positive number`)
  return number
}

// ----------------------------------------------------------------------------------------------------------- verbs

const deps: LabDeps = { clock: new SystemClock(), say: line => console.error(line) }

const verbs: Readonly<Record<string, (words: Words) => Promise<number>>> = {
  up: async words => {
    const [file] = named(words, 1, 'up FILE')
    const lab = await Lab.up(file!, deps)
    return printStatus(lab, words.json)
  },

  status: async words => printStatus(Lab.open(onlyLab(words.names[0] ?? words.lab), deps), words.json),

  down: async words => {
    const left = labsLeft()
    const wanted = words.all
      ? left
      : [words.names[0] ?? words.lab ?? (left.length === 1 ? left[0]! : onlyLab(undefined))]
    for (const name of wanted) {
      const gone = await Lab.down(name, deps)
      console.log(`lab ${name} is down: ended ${gone.processes} processes, removed ${gone.namespaces} namespaces`)
    }
    if (wanted.length === 0) console.log('no lab is up')
    return 0
  },

  exec: async words => {
    const [name] = named(words, 1, 'exec NAME -- COMMAND')
    if (words.command.length === 0) throw new Usage('no command: manxctl lab exec NAME -- COMMAND...')
    return open(words).execAttached(name!, words.command)
  },

  shell: async words => {
    const [name] = named(words, 1, 'shell NAME')
    return open(words).execAttached(name!, [process.env['SHELL'] ?? '/bin/sh'])
  },

  pod: async words => {
    const [action, ...names] = words.names
    const lab = open(words)
    if (action === 'list') return printPods(lab, words.json)
    if ((action !== 'add' && action !== 'rm') || names.length === 0)
      throw new Usage('usage: manxctl lab pod add|rm NODE/POD...')
    const pairs = names.map(name => {
      const pair = /^([^/]+)\/([a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?)$/.exec(name)
      if (!pair) throw new Usage(`\`${name}\` is no NODE/POD`)
      return { node: pair[1]!, name: pair[2]! }
    })
    for (const { node, name } of pairs) {
      if (action === 'add') console.log(`${node}/${name} ${(await lab.addPod({ node, name })).addresses.join(' ')}`)
      else await lab.removePod(node, name)
    }
    return 0
  },

  ping: async words => {
    const [from, to] = named(words, 2, 'ping A B')
    const lab = open(words)
    const targets = Ip.parse(to!) ? [to!] : lab.addresses(to!)
    const reports = await probe(lab, from!, targets, { count: words.count, intervalMs: words.intervalMs })
    for (const one of reports) {
      const times = one.rttMs ? `, ${one.rttMs.p50} ms p50, ${one.rttMs.max} ms max` : ''
      console.log(`${from} -> ${to} ${one.target}: ${one.received} of ${one.sent} answered${times}`)
    }
    return reports.every(one => one.lost === 0) ? 0 : 3
  },

  logs: async words => {
    const [name] = named(words, 1, 'logs NAME')
    const folder = new LabFolder(onlyLab(words.lab))
    const file = [name!, ...[...folder.processes().keys()].filter(one => one.startsWith(`${name}.`))]
      .map(one => folder.logFile(one))
      .find(one => existsSync(one))
    if (!file) throw new CodedError({ code: 'unknown' }, `\`${name}\` has no log in lab \`${folder.lab}\``)
    return attach(words.follow ? ['tail', '-n', '100', '-f', file] : ['cat', file])
  },

  graph: words => {
    console.log(graph(open(words)))
    return Promise.resolve(0)
  },
}

function open(words: Words): Lab {
  return Lab.open(onlyLab(words.lab), deps)
}

function named(words: Words, count: number, usage: string): readonly string[] {
  if (words.names.length !== count) throw new Usage(`usage: manxctl lab ${usage}`)
  return words.names
}

// -------------------------------------------------------------------------------------------------------- printing

async function printStatus(lab: Lab, json: boolean): Promise<number> {
  const rows = await lab.status()
  if (json)
    console.log(JSON.stringify({ apiVersion: 'manx/v1', kind: 'LabStatus', lab: lab.topology.lab, items: rows }))
  else console.log(statusTable(rows))
  for (const row of rows)
    if (row.reason !== undefined && row.state !== 'ready') console.error(`${row.name}: ${row.reason}`)
  return rows.every(row => row.state === 'ready' || row.state === 'running') ? 0 : 3
}

/** The table of section 9: text to the left, numbers to the right, two spaces between. */
export function statusTable(rows: readonly StatusRow[]): string {
  const heads = ['NAME', 'KIND', 'ADDRESS', 'AS', 'STATE', 'PODS', 'SESSIONS', 'PID']
  const right = new Set(['AS', 'PODS', 'PID'])
  const cells = rows.map(row => [
    row.name,
    row.kind,
    row.address,
    String(row.as),
    row.state,
    row.pods === undefined ? '-' : String(row.pods),
    row.sessions ? `${row.sessions.up}/${row.sessions.all}` : '-',
    row.pid === undefined ? '-' : String(row.pid),
  ])
  const widths = heads.map((head, i) => Math.max(head.length, ...cells.map(line => line[i]!.length)))
  return [heads, ...cells]
    .map(line =>
      line
        .map((cell, i) => (right.has(heads[i]!) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

function printPods(lab: Lab, json: boolean): number {
  const pods = lab.folder.pods()
  if (json) console.log(JSON.stringify({ apiVersion: 'manx/v1', kind: 'LabPods', items: pods }))
  else for (const pod of pods) console.log(`${pod.node}/${pod.name}  ${pod.addresses.join(' ')}`)
  return 0
}

function graph(lab: Lab): string {
  const { topology } = lab
  const pods = lab.folder.pods()
  const seats = (one: { seat: { ip: Ip }; seat6?: { ip: Ip } }) =>
    `${one.seat.ip.key}${one.seat6 ? ` ${one.seat6.ip.key}` : ''}`
  const segment = (rack: string | undefined) => [
    ...topology.routers
      .filter(one => one.rack === rack)
      .map(one => `  +- ${one.name}  ${one.kind} AS ${one.as}  ${seats(one)}`),
    ...topology.nodes
      .filter(one => one.rack === rack)
      .flatMap(one => [
        `  +- ${one.name}  AS ${one.as ?? 64512}  ${seats(one)}`,
        ...pods.filter(pod => pod.node === one.name).map(pod => `  |    +- ${pod.name}  ${pod.addresses.join(' ')}`),
      ]),
  ]
  if (topology.fabric.kind === 'l2') return [`segment ${topology.fabric.cidr.key}`, ...segment(undefined)].join('\n')
  return topology.fabric.racks.flatMap(rack => [`rack ${rack.name} ${rack.cidr.key}`, ...segment(rack.name)]).join('\n')
}

function complain(error: unknown): number {
  if (error instanceof Usage) {
    console.error(`error[U01]: ${error.message}\ntry: manxctl lab --help`)
    return 2
  }
  if (!(error instanceof CodedError)) throw error
  const { code } = error.detail
  if (code === 'bad-topology') {
    const { problems } = (error as CodedError<TopologyFailure>).detail
    console.error(`${error.message}\nerror: nothing was changed: ${problems.length} problems in the lab's file`)
    return 1
  }
  console.error(`error: ${error.message}`)
  return code === 'not-permitted' ? 6 : code === 'not-ready' ? 8 : 1
}

if (import.meta.main) process.exitCode = await runLab(process.argv.slice(2))
