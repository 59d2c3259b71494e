/* Records the data that a strict disk stores, for the processes that load this library (LD_PRELOAD).

   The rules, for everything below the folder POWER_CUT_ROOT:
   - fsync or fdatasync of a file stores the file's current content;
   - fsync or fdatasync of a folder stores the folder's current list of names;
   - no other call stores anything.

   So writes, renames and unlinks need no interposition: they change the real files, and a sync copies the data that
   it stores into the folder POWER_CUT_SHADOW, before it returns to the caller:
   - file-KEY: the content of a file;
   - folder-KEY: one line for each name, "f KEY NAME" or "d KEY NAME"; for POWER_CUT_ROOT itself the file is `root`.
   KEY is the inode number and the time of birth: an inode number alone may be used again.

   Not intercepted, so never stored: msync, sync_file_range, sync, syncfs, and files opened with O_SYNC. Any error of
   the recorder ends the process: an incomplete recording would prove nothing. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root, *shadow;
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

static void fail(const char *what)
{
    fprintf(stderr, "power_cut: %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void start(void)
{
    root = getenv("POWER_CUT_ROOT");
    shadow = getenv("POWER_CUT_SHADOW");
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (!root || !shadow || !real_fsync || !real_fdatasync)
        fail("not set up");
}

/* The path of `name` in the shadow folder. */
static void shadow_path(char *path, const char *name)
{
    if (snprintf(path, PATH_MAX, "%s/%s", shadow, name) >= PATH_MAX)
        fail("path too long");
}

/* The key of `name` in the folder `fd`; of `fd` itself when `name` is "". Returns 'd', 'f', or 0 when it is gone. */
static char key_of(int fd, const char *name, char key[64])
{
    struct statx facts;
    if (statx(fd, name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_TYPE | STATX_INO | STATX_BTIME, &facts)) {
        if (errno == ENOENT)
            return 0; /* removed by another thread since it was listed */
        fail("statx");
    }
    if (!(facts.stx_mask & STATX_BTIME))
        facts.stx_btime.tv_sec = facts.stx_btime.tv_nsec = 0;
    snprintf(key, 64, "%llu-%lld.%u", (unsigned long long)facts.stx_ino, (long long)facts.stx_btime.tv_sec,
             facts.stx_btime.tv_nsec);
    return S_ISDIR(facts.stx_mode) ? 'd' : 'f';
}

/* Through the caller's own descriptor where that can be read: to close another one of the same file would end the
   locks that SQLite has on it (fcntl, F_SETLK). */
static void copy_content(int fd, FILE *copy)
{
    char block[1 << 16], self[64];
    off_t at = 0;
    int from = fd;
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        if ((from = open(self, O_RDONLY | O_CLOEXEC)) < 0)
            fail("open");
    }
    for (;;) {
        ssize_t size = pread(from, block, sizeof block, at);
        if (size < 0)
            fail("pread");
        if (size == 0)
            break;
        if (fwrite(block, 1, size, copy) != (size_t)size)
            fail("fwrite");
        at += size;
    }
    if (from != fd)
        close(from);
}

static void copy_names(int fd, FILE *copy)
{
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* the caller's position in `fd` stays */
    DIR *folder = own < 0 ? NULL : fdopendir(own);
    struct dirent *entry;
    char key[64], kind;
    if (!folder)
        fail("opendir");
    while (errno = 0, (entry = readdir(folder))) {
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && (kind = key_of(own, entry->d_name, key)))
            fprintf(copy, "%c %s %s\n", kind, key, entry->d_name);
    }
    if (errno)
        fail("readdir");
    closedir(folder);
}

/* Whether `fd` lies below the root, and whether it is the root. */
static int is_below_root(int fd, int *is_root)
{
    char self[64], path[PATH_MAX];
    size_t length = strlen(root);
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(self, path, sizeof path - 1);
    if (size < 0)
        return 0; /* no descriptor: the real call says so */
    path[size] = 0;
    *is_root = strcmp(path, root) == 0;
    return *is_root || (strncmp(path, root, length) == 0 && path[length] == '/');
}

/* One at a time, of all processes: of two threads that sync one folder, the later list must be the one that stays. */
static int lock(void)
{
    char path[PATH_MAX];
    shadow_path(path, "lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        fail("open the lock");
    while (flock(fd, LOCK_EX))
        if (errno != EINTR)
            fail("flock");
    return fd;
}

static void record(int fd)
{
    char key[64], name[96], made[PATH_MAX], path[PATH_MAX];
    int is_root, saved = errno;
    if (!is_below_root(fd, &is_root))
        return;
    int locked = lock();
    char kind = key_of(fd, "", key);
    snprintf(name, sizeof name, "%s-%s", kind == 'd' ? "folder" : "file", key);
    shadow_path(made, "made");
    shadow_path(path, is_root ? "root" : name);
    FILE *copy = fopen(made, "we");
    if (!copy)
        fail("open a copy");
    if (kind == 'd')
        copy_names(fd, copy);
    else
        copy_content(fd, copy);
    if (fclose(copy) || rename(made, path))
        fail("keep a copy");
    close(locked);
    errno = saved;
}

int fsync(int fd)
{
    int result = real_fsync(fd);
    if (result == 0)
        record(fd);
    return result;
}

int fdatasync(int fd)
{
    int result = real_fdatasync(fd);
    if (result == 0)
        record(fd);
    return result;
}
