# Sourced by the other scripts: their phases, and a Vulkan driver.

# phase NAME COMMAND ..: runs the command, says when it begins and ends, and after eight seconds
# without a line from it says that it still runs.
phase() {
    local name=$1 begin=$SECONDS status=0
    shift
    echo "=== $name"
    # Its output is a pipe, so that cargo would leave out the colours.
    if [[ -t 1 ]]; then
        export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always}
    fi
    "$@" 2>&1 | relay "$name" "$begin" || status=$?
    echo "=== $name: $((SECONDS - begin)) s, $SECONDS s in all$([[ $status -eq 0 ]] || echo ", FAILED")"
    return "$status"
}

relay() {
    local line status
    while true; do
        status=0
        IFS= read -r -t 8 line || status=$?
        if [[ $status -eq 0 ]]; then
            printf '%s\n' "$line"
        elif [[ $status -gt 128 ]]; then
            # The part of a line that has come is printed.
            printf '%s' "$line"
            echo "... $1: $((SECONDS - $2)) s"
        else
            printf '%s' "$line"
            return 0
        fi
    done
}

# True if the Vulkan loader would find a driver, in the files that the environment names or in the
# two folders of drivers' manifests.
has_vulkan_driver() {
    if [[ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]]; then
        return 0
    fi
    compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null \
        || compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null
}

install_vulkan_driver() {
    local sudo=()
    if [[ "$(id -u)" -ne 0 ]]; then
        sudo=(sudo)
    fi
    "${sudo[@]}" apt-get update
    # Given through env, because sudo does not pass the caller's environment on.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends mesa-vulkan-drivers libvulkan1
}

# With a driver there must be an adapter: a test of the device that skips is then a failure.
require_vulkan_driver() {
    # Elsewhere the graphics interface is a part of the system.
    if [[ "$(uname -s)" == Linux ]] && ! has_vulkan_driver; then
        if ! command -v apt-get >/dev/null; then
            echo "no Vulkan driver found, and no apt-get to install one with." >&2
            echo "Install your distribution's Mesa Vulkan drivers (lavapipe) and the Vulkan loader," >&2
            echo "or point VK_DRIVER_FILES at the JSON file of a driver, and run this again." >&2
            return 1
        fi
        phase "no Vulkan driver found: installing Mesa's CPU driver" install_vulkan_driver
    fi
    export LINEAR_ATTENTION_REQUIRE_GPU=1
}
