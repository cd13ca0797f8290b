/**
 * `trace FROM TO[:PORT[/PROTO]]`: may this connection be made, and who says so (operator-experience.md 3).
 *
 * The document comes from an agent, and each node's part from that node's own agent where its socket can be reached: the
 * local one, those of the lab, `--at`. Without any agent it is made here from the store. Line one is the verdict, or DRIFT
 * when the kernels do something else than the records say; exit 0 allowed, 3 denied or not agreed.
 *
 * Without a port the question is a ping. `TO:8/icmp` names an ICMP type, `[fd00::1]:53/udp` an address of IPv6.
 */

import { hasCode } from '../../lib/errors.ts'
import { Ip } from '../../lib/ip.ts'
import { exitCodes, Failure } from '../report.ts'
import { policyTitle } from '../../felix/index.ts'
import { readCluster, sumOf, traceOf, type TraceDocument, type TracePart, type TraceQuestion } from '../trace.ts'
import { askView } from './agent.ts'
import { grouped, harmless, jsonText, wrapped, yamlText } from './layout.ts'
import { withConnection, type Invocation } from './world.ts'

export async function trace(call: Invocation): Promise<number> {
  const { args, flags, world } = call
  const question = {
    ...readEnds(args[0]!, args[1]!),
    ...(flags.namespace !== undefined && { namespace: flags.namespace }),
  }
  const document = await completed(
    call,
    question,
    (await fromAgent(call, question)) ?? (await fromStore(call, question)),
  )
  if (flags.output === 'json') world.out(`${jsonText({ ...document, kind: 'Trace' })}\n`)
  else if (flags.output === 'yaml') world.out(yamlText({ ...document, kind: 'Trace' }))
  else world.out(traceText(document))
  const isAllowed = document.verdict === 'allowed' && (document.kernelVerdict ?? 'allowed') === 'allowed'
  return isAllowed ? exitCodes.done : exitCodes.no
}

/** `TO:PORT/PROTO`, `TO:PORT`, `TO:icmp`, `[IPv6]:PORT/PROTO`, or TO alone. */
export function readEnds(from: string, to: string): TraceQuestion {
  const start = bare(from)
  if (Ip.parse(bare(to))) return { from: start, to: bare(to) }
  const found = /^(\[[^\]]+\]|[^:]+)(?::(\d+)(?:\/([a-z0-9-]+))?|:([a-z][a-z0-9-]*))?$/i.exec(to)
  if (!found)
    throw new Failure(
      [
        {
          code: 'U02',
          message: `\`${to}\` names no end and port`,
          hint: 'as shop/db:5432/tcp, node-b:22 or [fd00:48::7]:53/udp',
        },
      ],
      exitCodes.usage,
    )
  const [, name = '', port, protocol, word] = found
  const proto = protocol ?? word
  return { from: start, to: bare(name), ...(port !== undefined && { port }), ...(proto !== undefined && { proto }) }
}

function bare(text: string): string {
  return text.startsWith('[') && text.endsWith(']') ? text.slice(1, -1) : text
}

// ------------------------------------------------------------------------------------------------------------ asking

/** Undefined: no agent is there to ask. */
async function fromAgent(call: Invocation, question: TraceQuestion): Promise<TraceDocument | undefined> {
  try {
    // What arrives is what the view made: all of it is plain.
    return (await askView<object>(call, 'trace', { ...question })) as unknown as TraceDocument
  } catch (error) {
    if (hasCode(error, 'no-agent') || hasCode(error, 'timeout')) return undefined
    throw error
  }
}

function fromStore(call: Invocation, question: TraceQuestion): Promise<TraceDocument> {
  return withConnection(call, async ({ store }) => {
    const answer = await traceOf(question, await readCluster({ store, clock: call.world.clock }))
    if ('error' in answer)
      throw new Failure(
        [{ code: answer.missing ? 'D12' : 'U02', message: answer.error, hint: 'manxctl get wep -A' }],
        answer.missing ? exitCodes.failed : exitCodes.usage,
      )
    return answer
  })
}

/** Each node's part from that node's own agent, where it answers. */
async function completed(call: Invocation, question: TraceQuestion, document: TraceDocument): Promise<TraceDocument> {
  const parts = await Promise.all(
    document.parts.map(async (part): Promise<TracePart> => {
      if (part.from === 'agent' || part.note !== undefined) return part
      const { at: _other, ...flags } = call.flags
      const asked = await fromAgent({ ...call, flags: { ...flags, node: part.node } }, question).catch(() => undefined)
      const theirs = asked?.parts.find(
        one => one.node === part.node && (one.from === 'agent' || one.note !== undefined),
      )
      return theirs ?? { ...part, note: 'from the model only, its agent does not answer' }
    }),
  )
  const { toAllow } = document
  return { ...document, ...sumOf(parts, document.ends, document.flow), ...(toAllow && { toAllow }), parts }
}

// -------------------------------------------------------------------------------------------------------------- words

export function traceText(document: TraceDocument): string {
  const { verdict, kernelVerdict, by, ends, flow, parts, toAllow } = document
  const what =
    flow.port === undefined
      ? isPing(flow)
        ? 'ping'
        : `${flow.protocol} type ${flow.icmpType}`
      : `${flow.protocol} ${flow.port}`
  const way = `${endText(ends.from)}  ->  ${endText(ends.to)}, ${what}`
  const word = verdict === 'allowed' ? 'ALLOWED' : 'DENIED'
  const lines = [
    ...driftLines(document),
    ...(verdict === 'allowed' ? [`${word}   ${way}`] : [`${word}    by ${by}`, `          ${way}`]),
    ...ladder(document),
  ]
  for (const { node, note } of parts) if (note !== undefined) lines.push(`${node}: ${note}`)
  for (const { node, kernel } of parts)
    for (const rule of kernel?.unsure ?? [])
      lines.push(`${node}: cannot judge rule ${rule.rule} of chain ${rule.chain} in ${rule.table}: ${rule.text}`)
  const seen = parts.filter(part => part.kernel)
  if (seen.length > 0 && document.drift.length === 0 && kernelVerdict === verdict) {
    const where = parts.length === 1 ? `on ${parts[0]!.node}` : 'on both nodes'
    const readMs = Math.max(...seen.map(part => part.readMs ?? 0))
    lines.push(
      `Model and kernel agree ${where} (rules read in ${grouped(Math.round(readMs))} ms). Holds for new connections.`,
    )
  }
  if (toAllow)
    lines.push(wrapped(`To allow: add to ${policyTitle(toAllow.policy)} ${toAllow.direction}  ${toAllow.rule}`, 10))
  return `${lines
    .flatMap(line => line.split('\n'))
    .map(harmless)
    .join('\n')}\n`
}

function isPing({ protocol, icmpType }: TraceDocument['flow']): boolean {
  return (protocol === 'icmp' && icmpType === 8) || (protocol === 'ipv6-icmp' && icmpType === 128)
}

function driftLines({ verdict, kernelVerdict, drift, parts }: TraceDocument): string[] {
  const differ = kernelVerdict !== undefined && kernelVerdict !== verdict
  if (drift.length === 0 && !differ) return []
  const [first, ...rest] = drift
  const words = { allowed: 'allows', denied: 'denies' }
  const says = differ
    ? `model ${words[verdict]}, kernel ${words[kernelVerdict]}`
    : `kernel ${words[verdict]} as the model, yet`
  const one = first ? `${first.text} on ${first.node} [${first.code}]` : 'see below'
  const pending = parts.some(part => part.pending && part.drift.length > 0)
  return [
    `DRIFT  ${says}${differ ? ':' : ''} ${one}`,
    ...rest.map(({ node, text, code }) => `       ${text} on ${node} [${code}]`),
    ...(pending ? ['       the agent has changes to apply: this may be its own work in progress'] : []),
  ]
}

function endText({ kind, name, address, node }: TraceDocument['ends']['from']): string {
  if (kind === 'address') return address
  return kind === 'node' ? `node ${name} ${address}` : `${name} ${address} on ${node}`
}

function ladder({ parts, ends }: TraceDocument): string[] {
  const steps = stepsOf(parts, ends)
  return steps.flatMap(([first = '', ...rest], i) => [`${i + 1} ${first}`, ...rest.map(line => `  ${line}`)])
}

/** In the order in which the first packet meets them, up to the one that ends it. */
function stepsOf(parts: readonly TracePart[], ends: TraceDocument['ends']): string[][] {
  const steps: string[][] = []
  const station = (part: TracePart, one: TracePart['stations'][number]): boolean => {
    steps.push(stationLines(part, one))
    return one.verdict === 'denied'
  }
  for (const [i, part] of parts.entries()) {
    // A pod's egress comes before the way is chosen, what is said at the door after it.
    for (const one of part.stations) if (one.direction === 'egress' && station(part, one)) return steps
    for (const route of part.routes) {
      if (route.purpose !== 'to') continue
      steps.push([routeLine(part, route, ends.to.address)])
      if (!route.routed) return steps
    }
    for (const one of part.stations) if (one.direction === 'ingress' && station(part, one)) return steps
    if (i < parts.length - 1) continue
    for (const route of part.routes)
      if (route.purpose === 'return') steps.push([routeLine(part, route, ends.from.address)])
  }
  return steps
}

const nameWidth = 17

function stationLines({ node, kernel }: TracePart, station: TracePart['stations'][number]): string[] {
  const { direction, stage, endpoint, tiers, profiles, decider } = station
  const head = `${node} ${direction}`.padEnd(nameWidth)
  const blank = ' '.repeat(nameWidth)
  const about = stage === 'pod' ? '' : `${endpoint} (${stage}): `
  const lines: string[] = []
  for (const { tier, policies, end } of tiers) {
    for (const { title, rules } of policies) {
      const said = rules.map(one =>
        one.matched ? `rule ${one.rule} ${one.text}` : `rule ${one.rule} no match: ${one.why}`,
      )
      lines.push(`tier ${tier}  policy ${title}  ${said.length > 0 ? said.join('; ') : 'no rules'}`)
    }
    if (end) {
      const at = kernel?.decider
      const counted =
        end === 'Deny' && kernel?.verdict === 'denied' && at?.ours
          ? `, chain ${at.chain}${packetsText(at.packets)}`
          : ''
      lines.push(`end of tier ${tier}  ${end}${counted}`)
    }
  }
  if (tiers.length === 0 && stage === 'pod') lines.push(`no policy binds ${endpoint}`)
  for (const { title, rules } of profiles) {
    const hit = rules.find(one => one.matched)
    lines.push(
      `profile ${title.replace(/^Profile\//, '')}  ${hit ? `rule ${hit.rule} ${hit.text}` : 'no rule matched'}`,
    )
  }
  if (decider.by !== 'rule' && decider.by !== 'tier') lines.push(decider.text)
  return lines.map((line, i) => wrapped(`${i === 0 ? head : blank}${i === 0 ? about : ''}${line}`, nameWidth + 2))
}

function packetsText(packets: number | undefined): string {
  return packets === undefined ? '' : `, ${grouped(packets)} ${packets === 1 ? 'packet' : 'packets'}`
}

function routeLine(
  { node, from }: TracePart,
  { purpose, prefix, text, standing }: TracePart['routes'][number],
  address: string,
): string {
  const head = (purpose === 'return' ? 'return' : `${node} route`).padEnd(nameWidth)
  const shown = prefix === undefined ? address : prefix.replace(/\/(32|128)$/, '')
  const says = {
    'as wanted': 'kernel as wanted',
    'not ours': "the host's own",
    differs: 'NOT as wanted',
    'not known': 'from the records',
  }
  const body = `${purpose === 'return' ? 'conntrack; ' : ''}${text === 'no route' ? `no route to ${address}` : `${shown} ${text}`}`
  return `${head}${body.padEnd(60)}  ${from === 'agent' ? says[standing] : says['not known']}`.trimEnd()
}
