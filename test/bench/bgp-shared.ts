/**
 * manx-bgp's configuration for the shared load tool (shared/bench/bgp: bgpload), as its CUSTOM_GEN:
 *
 *     CUSTOM_GEN="node $PWD/test/bench/bgp-shared.ts" CUSTOM_CMD="$PWD/bin/manx-bgp --config \$CONF --log-level error" ./run.sh custom withdraw1m
 *
 *     bgp-shared.ts table SENDERS RECEIVERS | fanout CLIENTS
 */

import { manxConfig } from './bgp/configs.ts'
import { reflectorScene, tableScene } from './bgp/scene.ts'

const [mode, first, second] = process.argv.slice(2)
if (mode === 'table') process.stdout.write(manxConfig(tableScene(Number(first), Number(second))))
else if (mode === 'fanout') process.stdout.write(manxConfig(reflectorScene(Number(first))))
else {
  console.error('usage: bgp-shared.ts table SENDERS RECEIVERS | fanout CLIENTS')
  process.exitCode = 2
}
