"""The everyday set, written by hand: what people type first, in several wordings, with the command to answer.

One line each: command, then its wordings. They are visited more often than other items (see turns.py), and
the model card says so.
"""

from __future__ import annotations

_LINES = r"""
tar -xzf archive.tar.gz :: extract a tar.gz archive; untar a tar.gz file; unpack a .tar.gz; how to open a tgz file; extract archive.tar.gz
tar -xf archive.tar :: extract a tar archive; untar a file; unpack a tar file
tar -czf archive.tar.gz path/to/directory :: create a tar.gz archive; compress a folder with tar; make a tar.gz of a directory; compress a directory
tar -tf archive.tar.gz :: list the contents of a tar archive; see what is inside a tar.gz; list the files in a tar archive
tar -xjf archive.tar.bz2 :: extract a tar.bz2 archive; unpack a .tar.bz2 file
tar -xJf archive.tar.xz :: extract a tar.xz archive; unpack a .tar.xz file
tar -xzf archive.tar.gz -C path/to/directory :: extract a tar.gz into a directory; untar to another folder; extract an archive to a specific directory
unzip archive.zip :: unzip a file; extract a zip archive; unpack a zip file; open a zip file
zip -r archive.zip path/to/directory :: zip a folder; create a zip archive; compress a directory into a zip file; make a zip file
unzip -l archive.zip :: list the contents of a zip file; see what is in a zip archive
gzip path/to/file :: compress a file with gzip; gzip a file; compress a file
gunzip file.gz :: decompress a gz file; unzip a .gz file; extract a gz file
find . -name "*.txt" :: find files by name; find all txt files; search for files with an extension; find files with a pattern; find a file by name
find . -type f -size +100M :: find large files; find files larger than 100 MB; find big files
find . -type f -mtime -1 :: find files modified today; find files changed in the last day; find recently modified files
find . -type f -empty -delete :: delete empty files; remove all empty files
find . -type d -empty :: find empty directories; list empty folders
find . -name "*.log" -delete :: find and delete files; delete all log files; delete files by pattern
find . -type f -exec chmod 644 {} + :: change permissions of all files in a folder; chmod all files recursively
find . -type f | wc -l :: count files in a directory; how many files are in a folder; count the files recursively
grep -r "pattern" . :: search for text in files; search for a string in all files; find text in a directory; grep recursively; search text recursively
grep "pattern" path/to/file :: search for a pattern in a file; search for text in a file; find a word in a file
grep -i "pattern" path/to/file :: search a file ignoring case; case-insensitive search in a file; grep ignoring case
grep -v "pattern" path/to/file :: show lines that do not match; exclude lines matching a pattern; invert grep
grep -n "pattern" path/to/file :: grep with line numbers; show line numbers of matches
grep -c "pattern" path/to/file :: count matching lines; count how many lines match a pattern
grep -l "pattern" * :: list files that contain a text; which files contain a string
sed -i 's/old/new/g' path/to/file :: replace text in a file; find and replace in a file; replace a word in a file; substitute a string in place
sed -n '10,20p' path/to/file :: print lines 10 to 20 of a file; show a range of lines
sed '/pattern/d' path/to/file :: delete lines matching a pattern; remove lines containing a word
awk '{print $1}' path/to/file :: print the first column of a file; print the first field; get the first column
awk -F ',' '{print $2}' file.csv :: print the second column of a csv; get a column of a csv file
cut -d ',' -f 1 file.csv :: cut the first field of a csv; extract a column with cut
sort path/to/file :: sort a file; sort lines alphabetically; sort the lines of a file
sort -n path/to/file :: sort a file numerically; sort numbers
sort -u path/to/file :: sort and remove duplicates; remove duplicate lines; get unique lines
sort path/to/file | uniq -c | sort -nr :: count duplicate lines; count how often each line occurs
wc -l path/to/file :: count lines in a file; how many lines are in a file; count the lines
wc -w path/to/file :: count words in a file; how many words are in a file
head -n 10 path/to/file :: show the first lines of a file; print the first 10 lines; see the beginning of a file
tail -n 10 path/to/file :: show the last lines of a file; print the last 10 lines; see the end of a file
tail -f path/to/file :: follow a log file; watch a file grow; tail a log; see new lines of a log live
cat path/to/file :: show a file; print the contents of a file; display a file; view a file
less path/to/file :: page through a file; read a long file; view a large file
diff file1 file2 :: compare two files; show the difference between two files; see what differs between files
cmp file1 file2 :: compare two binary files; check whether two files are identical
tr 'a-z' 'A-Z' < path/to/file :: convert text to uppercase; make a file upper case
ls :: list files; list the files in a directory; show files in this folder; see what files are here
ls -la :: list all files including hidden ones; list hidden files; show hidden files; list files with details
ls -lt :: list files by date; sort files by modification time; list the newest files first
ls -lhS :: list files by size; sort files by size; list the largest files first
pwd :: print the current directory; where am I; show the current folder; what directory am I in
cd path/to/directory :: change directory; go to a folder; change into a directory
cd .. :: go up one directory; go to the parent folder; go back one folder
cd - :: go to the previous directory; return to the last directory
mkdir path/to/directory :: create a directory; make a folder; make a new directory; create a new folder
mkdir -p path/to/directory :: create nested directories; create a directory and its parents; make parent folders
rmdir path/to/directory :: remove an empty directory; delete an empty folder
rm path/to/file :: delete a file; remove a file; erase a file
rm -r path/to/directory :: delete a directory; remove a folder; delete a folder and everything in it; remove a directory recursively
cp path/to/file path/to/target :: copy a file; copy a file to another place
cp -r path/to/directory path/to/target :: copy a directory; copy a folder; copy a folder recursively
mv path/to/file path/to/target :: move a file; move a file to another directory
mv old_name new_name :: rename a file; rename a folder; change the name of a file
touch path/to/file :: create an empty file; make a new file; create a file
ln -s path/to/file path/to/link :: create a symbolic link; make a symlink; link to a file; create a soft link
readlink -f path/to/link :: show where a symlink points; get the absolute path of a file; resolve a symbolic link
file path/to/file :: find the type of a file; what kind of file is this; check a file's type
stat path/to/file :: show file details; see when a file was modified; show file metadata
chmod +x path/to/file :: make a file executable; make a script executable; add execute permission
chmod 755 path/to/file :: set permissions to 755; give everyone read and execute permission
chmod -R 755 path/to/directory :: change permissions recursively; chmod a folder recursively; change the permissions of a directory
chmod 600 path/to/file :: make a file private; only let me read a file; protect a private key
chmod u+w path/to/file :: make a file writable; add write permission
chown user:group path/to/file :: change the owner of a file; change file ownership; change the group and owner
chown -R user:group path/to/directory :: change the owner of a directory recursively; change ownership of a folder
du -sh path/to/directory :: show the size of a directory; how big is a folder; check the size of a folder; get the folder size
du -sh * | sort -h :: show what takes up space; list folders by size; sort directories by size; find the largest directories
df -h :: show free disk space; check disk space; how much disk space is left; show disk usage; see available space
free -h :: show free memory; check memory usage; how much RAM is free; see memory use
uptime :: show how long the system has been running; show the uptime; check system load
top :: show running processes live; monitor processes; see CPU usage; what is using my CPU
htop :: interactive process viewer; open a nicer top
ps aux :: list running processes; show all processes; list all running processes; see what is running
ps aux | grep name :: find a process by name; check whether a process is running; search for a process
pgrep name :: get the process id of a program; find the PID of a process
kill pid :: kill a process; stop a process; end a process; terminate a process by id
kill -9 pid :: force kill a process; kill a process that does not respond; kill a frozen process
pkill name :: kill a process by name; stop a program by name
killall name :: kill all processes with a name; kill every instance of a program
jobs :: list background jobs; show the jobs of this shell
command & :: run a command in the background; start a process in the background
nohup command & :: keep a command running after logout; run a command that survives closing the terminal
lsof -i :8080 :: find what is using a port; which process uses port 8080; see what listens on a port
kill $(lsof -t -i :8080) :: kill the process on a port; free a port; kill whatever uses port 8080
ss -tulpn :: show open ports; list listening ports; which ports are open; show listening sockets
lscpu :: show CPU information; how many cores do I have; get CPU details
lsblk :: list disks; list block devices; show partitions; list drives
uname -a :: show the kernel version; show system information; which kernel am I running
cat /etc/os-release :: show the Linux version; which distribution am I running; show the OS version
hostname :: show the host name; what is this computer called
whoami :: show the current user; who am I; which user am I
id :: show my user id and groups; which groups am I in
who :: who is logged in; list logged-in users
date :: show the date; print the current date and time; what time is it
cal :: show a calendar; print a calendar
history :: show command history; list previous commands; see what I typed before
clear :: clear the screen; clear the terminal
which command :: find where a command is; which binary is used; locate a program
man command :: read the manual of a command; get help for a command; open a man page
alias ll='ls -la' :: create an alias; define a shortcut for a command
export NAME=value :: set an environment variable; export a variable
echo $NAME :: print an environment variable; show the value of a variable
env :: list environment variables; show all environment variables
echo "text" > path/to/file :: write text to a file; save text into a file
echo "text" >> path/to/file :: append text to a file; add a line to a file
command > path/to/file :: redirect output to a file; save the output of a command
command 2>&1 | tee path/to/file :: save output and show it; write output to screen and file
command1 | command2 :: pipe one command into another; use the output of a command as input
watch -n 5 command :: run a command every 5 seconds; repeat a command periodically
time command :: measure how long a command takes; time a command
sleep 5 :: wait 5 seconds; pause for some seconds
xargs -n 1 command :: run a command for each input; run a command on every line of input
for f in *.txt; do mv "$f" "${f%.txt}.md"; done :: rename many files; change the extension of many files; batch rename files
for f in *; do echo "$f"; done :: loop over files; do something for every file
crontab -e :: schedule a task; edit cron jobs; run a command every day; schedule a job with cron
crontab -l :: list cron jobs; show my scheduled tasks
sudo command :: run a command as root; run as administrator
sudo su - :: become root; switch to the root user
su - user :: switch user; log in as another user
passwd :: change my password; set a new password
sudo useradd -m user :: add a user; create a new user; create a user account
sudo userdel -r user :: delete a user; remove a user account
sudo usermod -aG group user :: add a user to a group; put a user in a group
sudo reboot :: restart the computer; reboot the system
sudo shutdown -h now :: shut down the computer; turn off the machine
sudo apt update && sudo apt upgrade :: update all packages on Ubuntu; upgrade the system with apt; update my system
sudo apt install package :: install a package on Ubuntu; install a program with apt; install software on Debian
sudo apt remove package :: remove a package on Ubuntu; uninstall a program with apt
sudo dnf install package :: install a package on Fedora; install software with dnf
sudo pacman -S package :: install a package on Arch; install software with pacman
brew install package :: install a package on macOS; install software with Homebrew
pip install package :: install a Python package; install a package with pip
python3 -m venv path/to/venv :: create a virtual environment; make a Python venv
python3 -m http.server 8000 :: start a simple web server; serve a directory over HTTP; share a folder over HTTP
npm install package :: install a Node package; add a package with npm
systemctl status name :: check the status of a service; is a service running
sudo systemctl start name :: start a service
sudo systemctl stop name :: stop a service
sudo systemctl restart name :: restart a service
sudo systemctl enable name :: enable a service at boot; start a service automatically
journalctl -u name -f :: follow the logs of a service; see service logs
dmesg | tail :: show kernel messages; see the kernel log
ssh user@host :: connect to a server; log in to a remote machine; connect with ssh; ssh into a server
ssh -p 2222 user@host :: ssh on another port; connect with ssh to a different port
ssh-keygen -t ed25519 :: generate an ssh key; create an SSH key pair; make a new ssh key
ssh-copy-id user@host :: copy my ssh key to a server; set up passwordless login; log in without a password
ssh -L 8080:localhost:80 user@host :: forward a local port; create an ssh tunnel
scp path/to/file user@host:path/to/target :: copy a file to a server; upload a file with scp; send a file over ssh
scp user@host:path/to/file . :: copy a file from a server; download a file with scp
rsync -av path/to/source/ path/to/target/ :: sync two directories; copy a folder with rsync; back up a directory; mirror a folder
rsync -avz path/to/source/ user@host:path/to/target/ :: sync a folder to a server; upload a directory with rsync
curl -O https://example.com/file :: download a file; download a file with curl; save a url to a file
curl https://example.com :: fetch a web page; make a GET request; get a url
curl -I https://example.com :: show the HTTP headers of a url; get only the headers
curl -X POST -H "Content-Type: application/json" -d '{"key":"value"}' https://example.com :: send a POST request with JSON; post json with curl
curl ifconfig.me :: show my public IP address; what is my external IP; get my public ip
wget https://example.com/file :: download a file with wget
wget -r https://example.com :: download a whole website; mirror a website
ping example.com :: ping a host; check whether a server is reachable; test my internet connection
ip addr :: show my IP address; what is my ip; list network interfaces; show the local IP address
dig example.com :: look up a DNS name; query dns; find the ip of a domain
traceroute example.com :: trace the route to a host; show the network path
nc -zv host 80 :: check whether a port is open; test a port on a server
git init :: create a git repository; start a git repo; initialise a repository
git clone https://example.com/repo.git :: clone a repository; download a git repo; copy a git repository
git status :: show changed files in git; see the state of my repository
git add . :: stage all changes; add all files to git
git commit -m "message" :: commit changes; commit with a message; save my changes in git
git commit --amend :: change the last commit; edit the last commit message; amend a commit
git push :: push commits; upload my commits; push to the remote
git pull :: pull changes; update my repository; get the latest changes
git log --oneline :: show the commit history; list commits; see the git log
git diff :: show unstaged changes; see what I changed in git
git checkout -b branch_name :: create a new branch; make a git branch and switch to it
git switch branch_name :: switch branch; change to another branch
git branch :: list branches; show git branches
git branch -d branch_name :: delete a branch; remove a local git branch
git merge branch_name :: merge a branch; merge another branch into mine
git stash :: stash changes; put my changes aside; save changes without committing
git reset --soft HEAD~1 :: undo the last commit; undo a commit but keep the changes
git reset --hard HEAD :: discard all changes; throw away my local changes; reset to the last commit
git restore path/to/file :: discard changes in a file; undo changes to a file in git
git revert commit :: revert a commit; undo a pushed commit
git remote -v :: show the remotes of a git repo; which remote am I using
git tag v1.0.0 :: create a git tag; tag a release
docker ps :: list running containers; show docker containers
docker images :: list docker images
docker build -t name . :: build a docker image
docker run -it image bash :: start a container with a shell; run a docker container interactively
docker stop container :: stop a container
docker logs -f container :: show the logs of a container; follow docker logs
docker exec -it container bash :: open a shell in a running container
make :: build a project with make; run the default make target
sha256sum path/to/file :: get the checksum of a file; compute a sha256 hash; verify a download
base64 path/to/file :: encode a file in base64
base64 -d path/to/file :: decode base64
openssl rand -base64 32 :: generate a random password; create a random string
mount /dev/sdX1 /mnt :: mount a drive; mount a disk
umount /mnt :: unmount a drive; eject a disk
dd if=path/to/image.iso of=/dev/sdX bs=4M status=progress :: write an iso to a usb stick; make a bootable usb
ffmpeg -i input.mp4 output.mp3 :: extract audio from a video; convert a video to mp3
ffmpeg -i input.avi output.mp4 :: convert a video to mp4; change the format of a video
convert image.png image.jpg :: convert a png to jpg; convert an image
tmux new -s name :: start a tmux session; create a named tmux session
tmux attach -t name :: attach to a tmux session; go back to my tmux session
screen -S name :: start a screen session
nano path/to/file :: edit a file; open a file in an editor
vim path/to/file :: open a file in vim; edit a file with vim
jq . file.json :: pretty-print json; format a json file
split -l 1000 path/to/file :: split a file into pieces; split a file by lines
cat file1 file2 > path/to/target :: join files; merge two files; concatenate files
shuf -n 1 path/to/file :: pick a random line; print a random line of a file
seq 1 10 :: print the numbers from 1 to 10; count from 1 to 10
tree :: show a directory tree; list folders as a tree
exit :: leave the shell; log out; close the terminal
"""


def _parse(line: str) -> tuple[str, tuple[str, ...]]:
    command, wordings = line.rsplit(" :: ", 1)
    return command, tuple(w.strip() for w in wordings.split(";"))


EVERYDAY: tuple[tuple[str, tuple[str, ...]], ...] = tuple(
    _parse(line) for line in _LINES.strip().splitlines()
)
