#!/bin/sh
# Spark's tests need Java 17 or newer: use what is there, install a headless JRE where we may, else say what to type.
set -u
major() {
    "$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1
}
# Spark itself runs $JAVA_HOME/bin/java where JAVA_HOME is set, and only else what is on the PATH
if [ -n "${JAVA_HOME:-}" ]; then
    if [ -x "$JAVA_HOME/bin/java" ] && [ "$(major "$JAVA_HOME/bin/java")" -ge 17 ] 2>/dev/null; then exit 0; fi
    echo "JAVA_HOME ($JAVA_HOME) holds no Java 17 or newer, and Spark would use it. Type:" >&2
    echo "  unset JAVA_HOME" >&2
    echo "or set it to Java 17 or newer, then run the same command again." >&2
    exit 2
fi
java=$(command -v java || true)
if [ -n "$java" ] && [ "$(major "$java")" -ge 17 ] 2>/dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "no Java 17+ found: installing default-jre-headless"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends default-jre-headless >/dev/null && exit 0
fi
echo "Spark's tests need Java 17 or newer, found none. Type:" >&2
echo "  sudo apt-get update && sudo apt-get install -y default-jre-headless" >&2
echo "or set JAVA_HOME to an installed one, then run the same command again." >&2
exit 2
