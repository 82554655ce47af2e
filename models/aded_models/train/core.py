"""Essentials and core: programs that people ask about most, chosen by hand.

Some 300,000 visits are all that an hour on two shared cores pays for. Spread over every page they leave
everything half known; so pages of the essential programs get most of them, then those of the core, then the
rest. The model card reports each tier by itself.
"""

from __future__ import annotations

_PROGRAMS = """
alias awk base64 basename bash bat bg bzip2 cal case cat cd chgrp chmod chown chroot clear cmp comm cp cron
crontab csplit curl cut date dd declare df diff diff3 dig dirname dirs dmesg dos2unix du echo ed env eval exec
exit expand export expr factor false fdisk fg file find fmt fold for free fsck ftp fuser getent getopts grep
egrep fgrep zgrep groups groupadd groupdel gunzip gzip halt hash head help hexdump history host hostname
hostnamectl htop iconv id if ifconfig install ip iptables jobs join jq kill killall last less let link ln
locate logger login logname logout ls lsattr chattr lsblk lscpu lshw lsmod lsof lspci lsusb make man md5sum
mkdir mkfifo mkfs mknod mktemp more mount mountpoint mv nano nc ncat netcat netstat nice nl nmap nohup nproc
nslookup od openssl passwd paste patch pgrep pidof ping pkill popd poweroff printenv printf ps pstree pushd pv
pwd read readlink realpath reboot rename renice reset rev rm rmdir rsync scp screen script sed seq set sftp sh
sha1sum sha256sum sha512sum shred shuf shutdown sleep sort source split ss ssh ssh-add ssh-agent ssh-copy-id
ssh-keygen ssh-keyscan stat strace strings stty su sudo sum swapon swapoff sync sysctl systemctl journalctl
systemd-analyze tac tail tar tee telnet test tail time timedatectl timeout tmux top touch tput tr trap
traceroute mtr tree true truncate tty type ulimit umask umount unalias uname unexpand uniq unlink unset unxz
unzip uptime useradd userdel usermod users vi vim nvim visudo vmstat w wait wall watch wc wget whatis whereis
which while who whoami xargs xxd xz yes zcat zip zless zsh fish 7z apt apt-get apt-cache apt-mark dpkg snap
flatpak dnf yum rpm pacman zypper apk brew pip pipx pip3 npm npx yarn pnpm node python python3 venv conda
poetry uv ruby gem go cargo rustc rustup java javac mvn gradle gcc g++ clang cmake ninja gdb ldd nm objdump
strip perl php composer lua tsc eslint prettier black ruff mypy pytest jupyter ffmpeg ffprobe mpv vlc convert
magick identify mogrify gimp yt-dlp pandoc pdftotext pdfunite qpdf gs exiftool sox gh docker-compose podman
kubectl helm minikube vagrant terraform ansible ansible-playbook mysql mysqldump psql pg_dump pg_restore
createdb sqlite3 redis-cli mongosh gpg pass age ufw fail2ban-client certbot nginx apachectl httpd systemd-run
rclone restic aria2c httpie http ab wrk hyperfine fzf rg fd ag eza exa zoxide tldr btop ncdu duf neofetch
lolcat cowsay lsb_release update-alternatives modprobe insmod rmmod parted gparted mkswap blkid e2fsck
resize2fs tune2fs lvm lvcreate vgcreate pvcreate cryptsetup mdadm smartctl hdparm nmcli iwconfig iw wg
wg-quick tcpdump tshark route arp ethtool xclip xsel xdg-open open pbcopy pbpaste say defaults launchctl
diskutil softwareupdate screencapture caffeinate
"""

# Page names, subcommands joined by a hyphen.
_ESSENTIALS = """
alias awk base64 basename bg cal cat cd chgrp chmod chown clear cmp comm cp crontab curl cut date dd df diff
dig dirname dmesg du echo env exit export fg file find free fuser grep groups gunzip gzip head history
hostname htop id ip ip-address jobs join jq kill killall less ln ls lsblk lscpu lsof lspci lsusb man md5sum
mkdir mktemp mount mv nano nc netstat nl nohup nslookup passwd paste pgrep ping pkill printenv printf ps pwd
readlink realpath reboot rename rev rm rmdir rsync scp screen sed seq sftp sha256sum shred shuf shutdown sleep
sort split ss ssh ssh-copy-id ssh-keygen stat strings su sudo swapon tac tail tar tee time timedatectl timeout
tmux top touch tr traceroute tree type umount unalias uname uniq unzip uptime useradd userdel usermod vi vim
vmstat w watch wc wget which who whoami whereis xargs xz yes zcat zip 7z
apt apt-get apt-cache dpkg snap dnf pacman brew pip npm systemctl journalctl
systemctl-start systemctl-stop systemctl-restart systemctl-status systemctl-enable systemctl-disable
python python3 node make gcc ffmpeg yt-dlp pandoc sqlite3 openssl gpg ufw nmap crontab hexdump xxd
git git-add git-branch git-checkout git-cherry-pick git-clean git-clone git-commit git-diff git-fetch git-init
git-log git-merge git-mv git-pull git-push git-rebase git-remote git-reset git-restore git-revert git-rm
git-show git-stash git-status git-switch git-tag git-blame git-config
docker docker-build docker-compose docker-exec docker-images docker-logs docker-ps docker-rm docker-rmi
docker-run docker-start docker-stop docker-pull
"""

# Of families with many subcommands, only these.
_SUBCOMMANDS = {
    "git": """add am apply archive bisect blame branch checkout cherry-pick clean clone commit config describe
    diff
fetch format-patch gc grep init log ls-files merge mergetool mv pull push rebase reflog remote reset restore
rev-parse revert rm shortlog show stash status submodule switch tag worktree""",
    "docker": """build compose container cp exec image images info inspect kill login logs network ps pull
    push rename
restart rm rmi run save load start stats stop system tag top update version volume""",
}

ESSENTIALS = frozenset(_ESSENTIALS.split())
PROGRAMS = frozenset(_PROGRAMS.split())
SUBCOMMANDS = {name: frozenset(words.split()) for name, words in _SUBCOMMANDS.items()}


def is_essential(name: str) -> bool:
    """Whether a page of this name is among the essentials."""
    return name.replace(" ", "-") in ESSENTIALS


def is_core(name: str) -> bool:
    """Whether a page of this name is in the core, which holds the essentials."""
    first, _, rest = name.partition(" ")
    if is_essential(name):
        return True
    if first in SUBCOMMANDS:
        return not rest or rest.split()[0] in SUBCOMMANDS[first]
    return first in PROGRAMS
