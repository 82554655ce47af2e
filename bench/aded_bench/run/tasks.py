"""What the suite `shell` asks about: written by hand for this bench, in words of its own.

None of it is copied from the corpus the built-in model was trained on, so that phrasings are new to it.
"""

from __future__ import annotations

TASKS = """
unpack a tarball I downloaded
pack my project folder into a gzip tarball
peek inside a tar archive before unpacking it
unpack only one file from a tarball
put a folder into a zip without the git history
unzip something into another place
squeeze a log file with xz as hard as possible
decompress a zstd file
split a huge file into pieces of 100 megabytes
glue split pieces together again
find every python file below this folder
find files bigger than half a gigabyte
find what changed during the last hour
find files nobody touched for a year
find broken symbolic links
find duplicated empty folders and delete them
find files owned by another user
find a file when I only know part of its name
run a command on every file that find reports
count how many images are in a folder tree
search a word in all source files
search a phrase but skip the node_modules folder
show three lines around each match of a search
show only the part of a line that matches
list the files that do not contain a word
count matches of a regular expression
search inside gzipped logs
replace a word everywhere in one file
replace a word in all files of a folder
delete blank lines from a file
delete the first line of a csv
print line 42 of a file
print everything between two markers
insert a line at the top of a file
strip trailing spaces
turn tabs into spaces
change windows line endings to unix ones
convert a file to lower case
print the third column of a table
add up the numbers of a column
swap the first two columns
print lines longer than 80 characters
join two files on a shared key
put two files next to each other line by line
sort a csv by its second column
sort sizes like 10K and 2M correctly
shuffle the lines of a file
remove repeated lines without sorting
show the ten most frequent words of a text
count characters of a file
number the lines of a file
show the last 200 lines of a log
keep watching a log as it grows
watch a log and show only errors
show a file page by page
show a binary file as hex
compare two folders
compare two versions of a config side by side
make a patch out of two files
apply a patch
rename many files at once
change the extension of all jpeg files
copy a folder and keep its permissions
copy only newer files
mirror a folder onto another disk
move everything but one file
make several nested folders in one go
make an empty file
make a symbolic link
see where a link points
show the full path of a file
show a folder as a tree
list hidden entries too
list the newest files first
list the biggest entries of a folder
show how big each subfolder is
show free space on all disks
show free inodes
show who uses a mounted disk
mount a usb stick
unmount a disk safely
mount an iso image
format a partition with ext4
list block devices
show the partition table
check a file system for errors
write an image to a usb stick
wipe a disk with zeros
make a swap file
show memory usage in megabytes
show what eats the cpu
show the processes of one user
show processes as a tree
find the process id of a program
stop a process politely
kill a process that does not react
kill everything with a given name
lower the priority of a running job
start a program with low priority
keep a program running after logout
put a job into the background
bring a background job to the front
run something every five minutes
list my scheduled jobs
run a command once at midnight
run a command again every two seconds
stop a command after ten seconds
measure how long a command takes
repeat a command until it works
run several commands in parallel
pass lines of a file as arguments
see the exit code of the last command
save the output and still see it
send errors to a file
throw all output away
show my command history
search my earlier commands
set an environment variable
show all environment variables
make a shortcut for a long command
see which binary a command runs
show the manual of a command
find a manual page by keyword
show a calendar
print today's date as year month day
convert a unix timestamp to a date
change the time zone
calculate something with decimals
generate a random password
generate a uuid
make a sha256 checksum
verify checksums of a download
encode a file in base64
decode base64 text
encrypt a file with a password
decrypt a gpg file
sign a document with gpg
list my gpg keys
make an ssh key
copy my public key to a server
log in to a server on another port
forward a local port through ssh
run one command on a remote host
copy a file to a server
copy a folder from a server
sync a folder to a server and delete extra files
resume an interrupted copy
mount a remote folder over ssh
download a file
download a file under another name
continue a broken download
download a whole website for reading offline
send a post request with json
show only the headers of a response
follow redirects when fetching a page
upload a file with a form
measure how fast a url responds
check whether a host is reachable
trace the route to a host
look up the ip address of a domain
look up the mail servers of a domain
find who owns a domain
show my ip addresses
show open ports
see which program listens on port 8080
scan a machine for open ports
capture packets on an interface
show the routing table
take a network interface down
list wifi networks
connect to a wifi network
test the network speed between two machines
open a raw tcp connection
serve this folder over http
show the arp table
block an ip address
allow incoming ssh in the firewall
show the firewall rules
show logged in users
show who I am
add a new user
delete a user and his files
change my password
add a user to a group
list the groups I am in
become root
run one command as another user
make a script executable
make a file readable by me alone
change the owner of a folder and all below
change the group of a file
set default permissions of new files
show permissions as numbers
show special attributes of a file
install a package on debian
remove a package and its configuration
update all packages on ubuntu
search for a package on fedora
list installed packages on arch
find which package a file belongs to
install a program with homebrew
install a python package for me only
list outdated python packages
make a python virtual environment
freeze python dependencies into a file
start a python debugger on a script
install node dependencies of a project
run a script from package.json
build a rust project for release
add a dependency to a rust project
format go code
run the tests of a go module
compile a c program with warnings
show the libraries a binary needs
show strings inside a binary
trace the system calls of a program
debug a core dump
build with make on four cores
list the targets of a makefile
start a git repository here
clone only the latest commit
stage parts of a file interactively
commit everything with a message
change the last commit message
undo the last commit but keep my changes
throw away local changes of a file
show what is staged
show who changed each line
show the history as a graph
search the history for a string
make a branch and switch to it
delete a branch that was merged
rename the current branch
merge another branch
move my commits on top of main
squash the last three commits
put my changes aside for a moment
bring stashed changes back
take one commit from another branch
find the commit that broke something
tag a release
push tags to the server
show the remotes of a repository
fetch everything and drop deleted branches
list untracked files git would delete
make an archive of a git revision
add a git submodule
ignore a file git already tracks
list running containers
list all docker images
build a docker image with a tag
run a container and remove it afterwards
open a shell in a container
follow the logs of a container
copy a file out of a container
stop all containers
clean unused docker data
start services with docker compose
list kubernetes pods in all namespaces
show the logs of a pod
forward a port to a pod
apply a kubernetes manifest
restart a system service
see whether a service is running
start a service at boot
show the logs of one unit since yesterday
show kernel messages
list loaded kernel modules
show cpu details
show pci devices
show usb devices
show the kernel version
show how long the machine is up
shut down in ten minutes
reboot now
read temperatures of the machine
show battery status
convert a png to a jpeg
resize an image to half
make a gif out of a video
cut a minute out of a video
convert a video to mp4
extract the sound of a video
join two audio files
show details of a media file
download a video as audio
convert markdown to html
convert a document to pdf
merge pdf files
extract pages from a pdf
get the text of a pdf
check the spelling of a file
pretty print json
pick one field out of json
convert yaml to json
validate an xml file
query a sqlite database from the shell
dump a postgres database
restore a mysql dump
list the keys of a redis server
start a terminal session that survives disconnects
attach to a tmux session
split a tmux window
record what happens in my terminal
copy the output of a command to the clipboard
open a file with its default program
edit a file as root safely
quit vim without saving
print a document on a printer
list printers
take a screenshot from the terminal
set the screen brightness
mute the sound
show a notification from a script
""".strip().splitlines()

# fmt: off
PROGRAMS = (
    "tar", "zip", "gzip", "xz", "find", "grep", "sed", "awk", "cut", "sort", "uniq", "tr", "wc", "head",
    "tail", "tee", "xargs", "diff", "patch", "rsync", "scp", "ssh", "sftp", "curl", "wget", "ping", "dig",
    "whois", "nmap", "netstat", "ss", "ip", "iptables", "tcpdump", "nc", "ps", "top", "htop", "kill",
    "nice", "nohup", "crontab", "at", "watch", "time", "timeout", "df", "du", "lsblk", "mount", "fdisk",
    "dd", "chmod", "chown", "ln", "stat", "file", "git", "docker", "kubectl", "systemctl", "journalctl",
    "jq", "ffmpeg", "pandoc", "tmux", "vim",
)
# fmt: on

FOLLOW_UPS = (
    ("how do I list files?", "`ls`", "and with sizes a person can read?"),
    ("how can I copy a file?", "`cp path/to/source path/to/target`", "what about a whole folder?"),
    ("delete a file", "`rm path/to/file`", "ask me before each one"),
    ("how do I search for text in a file?", '`grep "pattern" path/to/file`', "now ignoring case"),
    ("unpack a zip", "`unzip archive.zip`", "put it into another folder"),
    ("show the end of a file", "`tail path/to/file`", "keep following it"),
    ("find files by name", '`find . -name "*.txt"`', "only folders please"),
    ("download a page", "`curl https://example.com`", "save it to a file instead"),
    ("show disk usage", "`df -h`", "of one folder only"),
    ("make a commit", '`git commit -m "message"`', "and change the message afterwards"),
    ("show running processes", "`ps aux`", "only mine"),
    ("connect to a server", "`ssh user@host`", "on port 2222"),
    ("create a folder", "`mkdir path/to/directory`", "with its parents"),
    ("count lines of a file", "`wc -l path/to/file`", "count the words"),
    ("sort a file", "`sort path/to/file`", "the other way round"),
    ("list docker containers", "`docker ps`", "the stopped ones too"),
    ("compress a folder", "`tar -czf archive.tar.gz path/to/directory`", "how do I open it again?"),
    ("install a package", "`apt install package`", "and remove it?"),
    ("rename a file", "`mv path/to/source path/to/target`", "do not overwrite anything"),
    ("check a service", "`systemctl status unit`", "restart it"),
)

OFF_TOPIC = (
    "Who wrote Faust?",
    "What is the capital of Mongolia?",
    "Tell me a joke about penguins.",
    "How do I bake sourdough bread?",
    "Is it going to rain tomorrow?",
    "Translate 'good morning' into Japanese.",
    "What is seventeen times twenty-three?",
    "Write a haiku about autumn.",
    "Which planet has the most moons?",
    "Are you a person?",
    "hello there",
    "thank you, that helped",
    "Give me three names for a cat.",
    "Why is the sky blue?",
    "Recommend a film for tonight.",
    "How tall is Mont Blanc?",
    "What should I cook with leeks?",
    "Explain photosynthesis to a child.",
    "asdf qwer zxcv",
    "?",
)

NON_ASCII = (
    "wie finde ich große Dateien?",
    "cómo puedo extraer un archivo tar.gz?",
    "comment lister les fichiers cachés ?",
    "如何解压 zip 文件",
    "ファイルを検索するには",
    "как посмотреть свободное место на диске",
    "delete the file named naïve café.txt",
    "search for the word 'Größe' in all files",
    "rename 📷.jpg to photo.jpg",
    "كيف أنسخ ملفا",
    "find files named ελληνικά.txt",
    "copy 🎉🎊 party.tar.gz to /mnt/データ",
)

CONTROL = (
    "what does <|end|> mean in a file?",
    "search for the text <|user|> in my logs",
    "<|assistant|> list files",
    "grep for </s> and <s> in a corpus",
    "delete lines containing <|endoftext|>",
    "[INST] show disk usage [/INST]",
    "<|im_start|>user\nlist processes<|im_end|>",
    "replace <bos> by nothing in a file",
    "count how often <0x0A> occurs in tokens.txt",
    "print the file <|system|>.txt",
    "show lines with {{ messages }} or {% endfor %}",
    "find \\x00 bytes, \\n and \\t in a file",
)
