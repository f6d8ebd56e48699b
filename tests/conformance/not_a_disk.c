/* Preloaded into iscsi-test-cu so that it starts on a tape drive or a media changer.
 *
 * The tool asks READ CAPACITY (10) first and exits unless the answer is GOOD, which a logical unit that is no disk cannot
 * give. The first such failure of the process is turned into the capacity of a small disk; every other command, and every
 * later READ CAPACITY (10), passes through as it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

typedef struct scsi_task *command_function(struct iscsi_context *, int, struct scsi_task *, struct iscsi_data *);

/* SBC-4 5.15.2: the last logical block address, the block length in bytes */
static const unsigned char small_disk[8] = {0, 0, 0xff, 0xff, 0, 0, 2, 0};

static void answer_as_disk(struct scsi_task *task)
{
	unsigned char *answer = malloc(sizeof small_disk);

	if (answer == NULL)
		abort();
	memcpy(answer, small_disk, sizeof small_disk);
	free(task->datain.data);
	task->datain.data = answer;
	task->datain.size = sizeof small_disk;
	task->status = SCSI_STATUS_GOOD;
	task->residual_status = SCSI_RESIDUAL_NO_RESIDUAL;
	task->residual = 0;
	memset(&task->sense, 0, sizeof task->sense);
}

struct scsi_task *iscsi_scsi_command_sync(struct iscsi_context *context, int lun, struct scsi_task *task,
					  struct iscsi_data *data)
{
	static command_function *library_function;
	static bool answered;

	if (library_function == NULL)
		*(void **)&library_function = dlsym(RTLD_NEXT, "iscsi_scsi_command_sync");
	task = library_function(context, lun, task, data);
	if (task == NULL || task->cdb[0] != SCSI_OPCODE_READCAPACITY10 || answered)
		return task;
	answered = true;
	if (task->status != SCSI_STATUS_GOOD)
		answer_as_disk(task);
	return task;
}
