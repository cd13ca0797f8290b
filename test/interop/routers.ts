/** The daemons of the matrix, by the name that `--only` takes. */

import type { Lab } from '../fv/bgp-lab.ts'
import { bird1, bird2 } from './bird.ts'
import { exabgp } from './exabgp.ts'
import { frr } from './frr.ts'
import { gobgp } from './gobgp.ts'
import { openbgpd } from './openbgpd.ts'
import type { Router } from './router.ts'

export const routers: Readonly<Record<string, (lab: Lab) => Router | Promise<Router>>> = {
  bird2,
  bird1,
  frr,
  gobgp,
  openbgpd,
  exabgp,
}
