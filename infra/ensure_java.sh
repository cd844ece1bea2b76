#!/bin/sh
# Spark's tests need Java 17 or newer: use what is there, install a headless JRE where we may, else say what to type.
set -u
major() {
    "$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1
}
for java in "${JAVA_HOME:-/nonexistent}/bin/java" "$(command -v java || true)"; do
    if [ -n "$java" ] && [ -x "$java" ] && [ "$(major "$java")" -ge 17 ] 2>/dev/null; then
        exit 0
    fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "no Java 17+ found: installing default-jre-headless"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends default-jre-headless >/dev/null && exit 0
fi
echo "Spark's tests need Java 17 or newer, found none. Type:" >&2
echo "  sudo apt-get update && sudo apt-get install -y default-jre-headless" >&2
echo "or set JAVA_HOME to an installed one, then run the same command again." >&2
exit 2
