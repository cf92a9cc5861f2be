#!/bin/sh
# What the Makefile's targets begin with: boot.sh [options of tools.setup_env].
# Refuses odd values of make's variables, finds a Python 3.11 or 3.12 and lets it look after the
# environment at $VENV. With --clean: removes that environment, if it is one of ours.
set -u

refuse() {
	printf 'error: %s\n' "$1" >&2
	exit 2
}

text() { # NAME VALUE
	case $2 in
	*[!A-Za-z0-9_.,+-]*) refuse "$1 takes letters, digits and _ . , + - only" ;;
	esac
}

path() { # NAME VALUE: whatever a path may be, but for blanks and what a shell would act on
	case $2 in
	*[[:space:][:cntrl:]\;\&\|\<\>\(\)\{\}\$\`\"\'\\\*\?\!\#]*)
		refuse "$1 takes a path without blanks, quotes and other special characters"
		;;
	esac
}

check() { # in the C locale, where A-Z are just these letters
	LC_ALL=C
	text PAPER "${PAPER-}"
	text SCALE "${SCALE-}"
	text EXECUTOR "${EXECUTOR-}"
	text DEVICE "${DEVICE-}"
	text INSTALLER "${INSTALLER-}"
	path PYTHON "${PYTHON-}"
	path VENV "${VENV-}"
	case ${SEEDS-} in *[!0-9]*) refuse "SEEDS takes a whole number" ;; esac
	case ${SEED_OFFSET-} in *[!0-9]*) refuse "SEED_OFFSET takes a whole number" ;; esac
	case ${ANYWAY-} in '' | 1) ;; *) refuse "ANYWAY takes 1 or nothing" ;; esac
	case ${JOBS-2} in '' | *[!0-9]*) refuse "JOBS takes a whole number" ;; esac
	case ${HOURS-} in *[!0-9.]* | *.*.*) refuse "HOURS takes a number" ;; esac
}

fit() {
	"$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() { # prints the first that will do; the environment looks after itself
	if [ -d "$VENV/stamps" ] && [ -x "$VENV/bin/python" ]; then
		printf '%s\n' "$VENV/bin/python"
		return
	fi
	for name in python3 python3.12 python3.11 python; do
		if fit "$name"; then
			printf '%s\n' "$name"
			return
		fi
	done
	uv python find '>=3.11,<3.13' 2>/dev/null
}

(check) || exit 2
VENV=${VENV:-.venv}

if [ "${1-}" = --clean ]; then
	if [ -L "$VENV" ]; then
		echo "leaving $VENV, which is a link"
	elif [ -d "$VENV/stamps" ] || [ -e "$VENV/unfinished" ]; then
		echo "removing $VENV"
		rm -rf -- "$VENV"
	elif [ -e "$VENV" ]; then
		echo "leaving $VENV, which make did not make"
	fi
	exit
fi

if [ -n "${PYTHON-}" ]; then
	python=$PYTHON
	command -v -- "$python" >/dev/null 2>&1 ||
		refuse "there is no $python; name a Python 3.11 or 3.12 with PYTHON="
else
	python=$(find_python) || python=
	[ -n "$python" ] || refuse "there is no Python 3.11 or 3.12 (python3 is $(
		python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo missing
	)); install one, for instance by 'uv python install 3.12', or name it with PYTHON="
fi
exec "$python" -m tools.setup_env --venv="$VENV" ${INSTALLER:+--installer="$INSTALLER"} "$@"
