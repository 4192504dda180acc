import java.io.File;
import org.apache.kafka.common.record.internal.FileLogInputStream;
import org.apache.kafka.common.record.internal.FileRecords;

/** Reads log files with Kafka's own classes: every checksum, every record, offsets that rise, nothing left over. */
public class ReadBatches {
    public static void main(String[] files) throws Exception {
        for (String file : files) {
            try (FileRecords log = FileRecords.open(new File(file), false)) {
                long records = 0, end = 0, next = 0;
                for (FileLogInputStream.FileChannelRecordBatch batch : log.batches()) {
                    batch.ensureValid();
                    if (batch.baseOffset() < next) {
                        throw new IllegalStateException(file + ": a batch begins at " + batch.baseOffset() + ", below " + next);
                    }
                    for (var record : batch) {
                        record.ensureValid();
                        records++;
                    }
                    next = batch.nextOffset();
                    end = batch.position() + batch.sizeInBytes();
                }
                if (end != log.sizeInBytes()) {
                    throw new IllegalStateException(file + ": " + (log.sizeInBytes() - end) + " bytes are left over");
                }
                System.out.println(file + ": " + records + " records, valid to Kafka");
            }
        }
    }
}
