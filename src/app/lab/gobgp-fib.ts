/**
 * Kernel routes for a GoBGP gateway: GoBGP itself writes none unless it is joined to zebra. Started beside gobgpd in its
 * namespace, it follows `gobgp monitor global rib` and keeps the kernel's routes of protocol 186 (bgp) equal to the best
 * paths. A lab's prop, one `ip route` per change; when gobgpd is not there it tries again, and the routes stay.
 *
 *   gobgp-fib.ts PATH-OF-GOBGP
 */

import { SystemClock } from '../../platform/clock.ts'
import { converse, pause, run } from './process.ts'

interface Path {
  readonly nlri: { readonly prefix: string }
  readonly withdrawal?: boolean
  readonly attrs?: readonly { readonly type: number; readonly nexthop?: string }[]
}

const gobgp = process.argv[2] ?? 'gobgp'
const clock = new SystemClock()
let last: Promise<unknown> = Promise.resolve()

function follow(path: Path): void {
  const { prefix } = path.nlri
  // 3: NEXT_HOP, 14: MP_REACH_NLRI.
  const via = path.attrs?.find(one => one.type === 3 || one.type === 14)?.nexthop
  const family = prefix.includes(':') ? '-6' : '-4'
  const change =
    path.withdrawal === true || via === undefined
      ? ['del', prefix, 'proto', 'bgp']
      : ['replace', prefix, 'via', via, 'proto', 'bgp', 'metric', '32']
  last = last.then(() => run(['ip', family, 'route', ...change], { mayFail: true }))
}

for (;;) {
  const streams = ['ipv4', 'ipv6'].map(family =>
    converse([gobgp, 'monitor', 'global', 'rib', '-a', family, '--current', '-j'], line => {
      try {
        for (const path of [JSON.parse(line) as Path | readonly Path[]].flat()) follow(path)
      } catch {
        console.error(`not understood: ${line}`)
      }
    }),
  )
  await Promise.race(streams.map(stream => stream.ended))
  await Promise.all(streams.map(stream => stream.stop()))
  await pause(clock, 500)
}
