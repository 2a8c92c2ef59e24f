/* What one system call costs, and how long a command takes: compiled in the guest of `bench introspect`, one line (`name value unit`) a
 * repetition.
 *   calls getppid COUNT REPETITIONS
 *   calls openat COUNT REPETITIONS     of a path that is there; the closes are not in the time
 *   calls time NAME COMMAND...
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Descriptors that are open at one time. */
enum { BATCH = 200 };

static const char path[] = "/etc/hostname";

static double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static double getppid_us(long count)
{
	double begun = now_us();
	for (long i = 0; i < count; i++)
		syscall(SYS_getppid);
	return (now_us() - begun) / count;
}

static double openat_us(long count)
{
	double took = 0;
	long opened = 0;
	for (; opened < count; opened += BATCH) {
		int first = -1, last = -1;
		double begun = now_us();
		for (int i = 0; i < BATCH; i++) {
			last = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
			first = first < 0 ? last : first;
		}
		took += now_us() - begun;
		if (first < 0 || last != first + BATCH - 1)
			exit(1);
		syscall(SYS_close_range, first, last, 0);
	}
	return took / opened;
}

static int time_command(const char *name, char **command)
{
	int status = -1;
	double begun = now_us();
	pid_t child = fork();
	if (child == 0) {
		execvp(command[0], command);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		return 1;
	printf("%s %.6f s\n", name, (now_us() - begun) / 1e6);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && !strcmp(argv[1], "time"))
		return time_command(argv[2], argv + 3);
	if (argc != 4)
		return 2;
	int opens = !strcmp(argv[1], "openat");
	for (long left = atol(argv[3]); left > 0; left--)
		printf("%s %.4f us\n", argv[1], opens ? openat_us(atol(argv[2])) : getppid_us(atol(argv[2])));
	return 0;
}
