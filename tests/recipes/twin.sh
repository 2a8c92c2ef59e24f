# What an intruder's shell does: files, pipes, programs that are there and that are not. Every pipe is written once, so that no read depends
# on who was faster.
cd /srv
mkdir twin
cd twin
echo one > a
cat a
cp a b
mv b c
ln a hard
ln -s a soft
chmod 600 a
chown 1:1 c
touch -d 2020-01-01 c
truncate -s 100 c
echo two >> a
echo three | cat
echo four | (cat > d)
(cd /tmp; echo five > five; rm five)
nothing-like-this
/etc/passwd
cat /nowhere
id -u
printf 'say "\\t\033[1m%s"\n' a > 'name with "quotes"'
rm -f hard soft c d
rmdir twin2
perl /opt/twin.pl
rm -rf /srv/twin
exit 3
