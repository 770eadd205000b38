#!/usr/bin/env bash
# bundle.sh NAME FOLDER LICENCES PROGRAM...: a relocatable tree FOLDER/NAME and FOLDER/NAME.tar.gz:
#   bin/       the programs, stripped; they look for libraries in ../lib first
#   lib/       what they are linked with, short of the C and C++ runtimes and of CUDA
#   conf/      the samples of the repository, annotated
#   licences/  of the headers that are compiled in (LICENCES: label=file,label=file), and of the
#              packages that the libraries came with
# It runs where glibc is as new as here.
set -euo pipefail
name=$1 folder=$2 licences=$3
shift 3
tree="$folder/$name"
rm -rf "$tree" "$tree.tar.gz"
mkdir -p "$tree/bin" "$tree/lib" "$tree/conf/jobs" "$tree/licences"
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
install -m 644 "$source"/conf/*.toml "$tree/conf/"
install -m 644 "$source"/conf/jobs/*.toml "$tree/conf/jobs/"

# What the machine itself must have.
theirs='^(ld-linux.*|linux-vdso|lib(c|m|dl|rt|pthread|resolv|util|anl|nsl|stdc\+\+|gcc_s))\.so'
theirs_cuda='^lib(cuda|cudart|cublas|cublasLt|cudnn.*|nccl|nvrtc.*|nvidia.*)\.so'

for program in "$@"; do
  install -m 755 "$program" "$tree/bin/"
  strip --strip-unneeded "$tree/bin/$(basename "$program")"
  if ldd "$program" | grep 'not found'; then
    echo "$program: libraries are missing" >&2
    exit 1
  fi
  while read -r library path; do
    [[ $library =~ $theirs || $library =~ $theirs_cuda ]] && continue
    [ -e "$tree/lib/$library" ] && continue
    real=$(readlink -f "$path")
    install -m 644 "$real" "$tree/lib/$library"
    # Where /lib is /usr/lib the package may know the file under either name.
    package=$(dpkg -S "$real" 2>/dev/null || dpkg -S "${real#/usr}" 2>/dev/null) ||
      { echo "$real: no package has it, so its licence is not known" >&2; exit 1; }
    package=${package%%:*}
    install -m 644 "/usr/share/doc/$package/copyright" "$tree/licences/$package"
  done < <(ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }')
done
for library in "$tree"/lib/*; do
  [ -e "$library" ] && strip --strip-unneeded "$library"
done

# Headers that are compiled in.
for notice in /usr/share/doc/{libtomlplusplus-dev,libcli11-dev,libexpected-dev,libboost1.*-dev}/copyright; do
  if [ -e "$notice" ]; then
    install -m 644 "$notice" "$tree/licences/$(basename "$(dirname "$notice")")"
  fi
done
IFS=, read -ra pairs <<<"$licences"
for pair in "${pairs[@]}"; do
  if [ -n "$pair" ]; then cp "${pair#*=}" "$tree/licences/${pair%%=*}"; fi
done

tar -C "$folder" --owner=0 --group=0 --sort=name -czf "$tree.tar.gz" "$name"
size=$(stat -c %s "$tree.tar.gz")
echo "$tree.tar.gz: $((size / 1024 / 1024)) MiB, $# programs, $(find "$tree/lib" -type f | wc -l) libraries"
limit_mib=60
[ "$size" -le $((limit_mib * 1024 * 1024)) ] || { echo "larger than $limit_mib MiB" >&2; exit 1; }
