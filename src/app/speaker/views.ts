/**
 * What a speaker that stands alone shows at /api/v1: the documents of bgp-views.ts, which `manxctl bgp ... --at unix:SOCKET`
 * reads, and two of its own: `node`, who this is, and `kernel`, routes wanted and refused.
 */

import type { Clock } from '../../lib/ports.ts'
import { bgpActions, type BgpSource, bgpViews } from '../bgp-views.ts'
import type { Rooms } from '../http.ts'
import type { BgpSpeaker } from '../speaker.ts'
import type { KernelRoutes } from './fib.ts'

export function doorsOf(
  speaker: BgpSpeaker,
  kernel: () => KernelRoutes | undefined,
  clock: Clock,
): Pick<Rooms, 'views' | 'actions'> {
  const source: BgpSource = {
    clock,
    snapshot: () => speaker.snapshot(),
    page: query => speaker.page(query),
    refused: peers => speaker.refused(peers),
    explain: prefix => speaker.explain(prefix),
    reset: (key, how) => speaker.resetPeer(key, how),
    kernel: prefixes => kernel()?.report(prefixes) ?? [],
  }
  return {
    views: {
      ...bgpViews(source),
      node: () => ({ name: speaker.snapshot().routerId, problems: [], notes: speaker.notes }),
      kernel: () => kernel()?.snapshot() ?? { wanted: 0, pending: 0, refused: [] },
    },
    actions: bgpActions(source),
  }
}
