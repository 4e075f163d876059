/*
 * enter-root ROOT COMMAND [ARGUMENT...]
 *
 * Runs COMMAND with ROOT as its whole file system: in a private mount namespace, by pivot_root(2), with /proc of the host
 * and nothing else mounted. Unlike chroot(8) this leaves the process free to make namespaces of its own. An ordinary user
 * gets a user namespace in which they are root.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void must(int result, const char *what) {
    if (result != -1) return;
    perror(what);
    exit(125);
}

static void write_file(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    must(file, path);
    must((int)write(file, text, strlen(text)), path);
    close(file);
}

static void become_root(void) {
    char uids[64], gids[64];
    snprintf(uids, sizeof uids, "0 %u 1", getuid());
    snprintf(gids, sizeof gids, "0 %u 1", getgid());
    must(unshare(CLONE_NEWUSER), "make a user namespace");
    write_file("/proc/self/setgroups", "deny");
    write_file("/proc/self/uid_map", uids);
    write_file("/proc/self/gid_map", gids);
}

int main(int count, char **arguments) {
    if (count < 3) {
        fprintf(stderr, "usage: enter-root ROOT COMMAND [ARGUMENT...]\n");
        return 125;
    }
    const char *root = arguments[1];
    if (getuid() != 0) become_root();
    must(unshare(CLONE_NEWNS), "make a mount namespace");
    must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "keep mounts private");
    must(mount(root, root, NULL, MS_BIND, NULL), "mount the new root");
    must(chdir(root), "enter the new root");
    if (mkdir("proc", 0555) == -1) must(access("proc", F_OK), "make /proc");
    must(mount("/proc", "proc", NULL, MS_BIND | MS_REC, NULL), "mount /proc");
    must((int)syscall(SYS_pivot_root, ".", "."), "change the root");
    must(umount2(".", MNT_DETACH), "leave the old root");
    must(chdir("/"), "go to the root");
    must(execv(arguments[2], arguments + 2), arguments[2]);
    return 125;
}
