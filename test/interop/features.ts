/** The rows of the matrix, in the order of the table. */

import { bmp } from './collector.ts'
import { communities } from './communities.ts'
import * as routes from './routes.ts'
import * as sessions from './sessions.ts'
import type { Stage } from './stage.ts'

export interface Feature {
  readonly title: string
  /** What it returns is a remark. */
  run(stage: Stage): Promise<string | void>
}

export const features: Readonly<Record<string, Feature>> = {
  ebgp: { title: 'eBGP', run: sessions.ebgp },
  ibgp: { title: 'iBGP', run: sessions.ibgp },
  collision: { title: 'both sides active at once', run: sessions.collision },
  'rr-client': { title: 'we are its client (RR)', run: routes.reflectorClient },
  rr: { title: 'we reflect for it (RR)', run: routes.reflector },
  ipv6: { title: 'IPv6 session', run: sessions.ipv6 },
  mp: { title: 'both families, one session', run: sessions.mp },
  md5: { title: 'MD5', run: sessions.md5 },
  'md5-wrong': { title: 'MD5: wrong or missing key', run: sessions.md5Wrong },
  gtsm: { title: 'GTSM', run: sessions.gtsm },
  'gr-helper': { title: 'graceful restart: it restarts', run: routes.restartHelper },
  'gr-restart': { title: 'graceful restart: we restart', run: routes.restarting },
  'llgr-helper': { title: 'long-lived GR: it restarts', run: routes.longLivedHelper },
  'llgr-restart': { title: 'long-lived GR: we restart', run: routes.longLivedRestarting },
  as4: { title: '4-octet AS', run: sessions.as4 },
  as2: { title: '2-octet AS neighbours', run: sessions.as2 },
  'ext-nexthop': { title: 'IPv4 over IPv6 next hop', run: routes.extendedNextHop },
  'add-path': { title: 'add-path both ways', run: routes.addPath },
  refresh: { title: 'route refresh', run: routes.refresh },
  'max-prefix': { title: 'max-prefix', run: routes.maxPrefix },
  bfd: { title: 'BFD', run: sessions.bfd },
  communities: { title: 'communities, 3 kinds', run: communities },
  'ext-messages': { title: 'extended messages', run: sessions.extendedMessages },
  bmp: { title: 'BMP of its sessions, to pmacct', run: bmp },
  shutdown: { title: 'shutdown communication', run: routes.shutdown },
}
