import com.google.protobuf.ByteString;
import io.grpc.ManagedChannelBuilder;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import layerserve.v1.DataType;
import layerserve.v1.ModelSpec;
import layerserve.v1.PredictRequest;
import layerserve.v1.PredictionServiceGrpc;
import layerserve.v1.Tensor;

/** Predicts a row with the model "dense". Argument: the server's address. */
public class Predict {
    public static void main(String[] arguments) {
        var channel = ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
        var row = ByteBuffer.allocate(64 * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
        while (row.hasRemaining()) row.putFloat(0.5f);
        var tensor = Tensor.newBuilder().setDtype(DataType.DATA_TYPE_FLOAT32).addShape(1).addShape(64)
            .setData(ByteString.copyFrom(row.flip()));
        var request = PredictRequest.newBuilder().setModel(ModelSpec.newBuilder().setName("dense")).addInputs(tensor);
        var output = PredictionServiceGrpc.newBlockingStub(channel).predict(request.build()).getOutputs(0);
        var numbers = output.getData().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
        System.out.print(output.getName() + " " + output.getShapeList());
        while (numbers.hasRemaining()) System.out.print(" " + numbers.get());
        System.out.println();
        channel.shutdown();
    }
}
